"""Durable sessions against sessions in memory, and what a takeover costs: one server of each kind, in turns.

Example: python -m bench.durability --rounds 5
"""

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Annotated

import grpc
import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from statecell.v1 import inference_pb2 as pb
from statecell.v1 import inference_pb2_grpc

from bench.load import Load, measure
from bench.messages import STREAM, streamed, unary, x
from bench.process import ProcessError, Server, listening, module, start
from bench.results import Measurement, Results, Values, machine
from bench.setup import SHAPES, Setup, SetupError, build, cores, export, repository

MODEL = "1x512"
SESSIONS = (1, 16, 64)
GOAL = 0.7
"""Of the steps a second in memory, at the most sessions."""
TAKEOVERS = 50

console = Console()


@contextmanager
def store(setup: Setup) -> Iterator[int]:
    """The port of a redis-server on the load's core, without persistence. Raises SetupError."""
    if shutil.which("redis-server") is None:
        raise SetupError("redis-server is missing; install it with: apt-get install redis-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "wb") as null:
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", folder]
        with start(command, setup.load_core, stdout=null) as process:
            try:
                _await(port)
                yield port
            finally:
                process.terminate()


def _await(port: int, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError as error:
            if time.monotonic() > until:
                raise SetupError(f"redis-server does not listen on port {port}") from error
            time.sleep(0.02)
        else:
            return


@contextmanager
def part(setup: Setup) -> Iterator[list[Measurement]]:
    """The measurements, their servers running."""
    with ExitStack() as stack:
        port = stack.enter_context(store(setup))
        command = module(
            "statecell_server", "--models", repository(MODEL), "--port", 0, "--store", f"valkey://127.0.0.1:{port}/0"
        )
        servers = [stack.enter_context(listening(command, setup.server_core)) for _ in range(2)]
        yield [
            *(
                Measurement(f"{kind}/{count}", partial(_steps, servers[0], setup, count, durable=kind == "durable"))
                for count in SESSIONS
                for kind in ("memory", "durable")
            ),
            Measurement("takeover", partial(_takeover, servers, port)),
        ]


@contextmanager
def sessions(address: str, count: int, *, durable: bool) -> Iterator[list[str]]:
    """The ids of `count` new sessions, deleted at the end of the block."""
    with grpc.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        create = pb.CreateSessionRequest(model=MODEL, durable=durable)
        ids = [call.result().session.session_id for call in [stub.CreateSession.future(create) for _ in range(count)]]
        yield ids
        for call in [stub.DeleteSession.future(pb.DeleteSessionRequest(session_id=session_id)) for session_id in ids]:
            call.result()


def _steps(server: Server, setup: Setup, count: int, *, durable: bool) -> Values:
    inputs = x(1, 1, SHAPES[MODEL][1])
    with sessions(server.address, count, durable=durable) as ids:
        return measure(Load(STREAM, [streamed([i], inputs) for i in ids], 1, inputs.nbytes), server, setup)


def _takeover(servers: list[Server], port: int) -> Values:
    """A unary step of a session that another server had before, against one of a session that is here, and a store's answer."""
    inputs = x(1, 1, SHAPES[MODEL][1])
    there, here = (grpc.insecure_channel(server.address) for server in servers)
    with there, here, sessions(servers[0].address, TAKEOVERS, durable=True) as ids:
        stubs = [inference_pb2_grpc.InferenceServiceStub(channel) for channel in (there, here)]
        took: dict[str, list[float]] = {"here": [], "taken": [], "store": []}
        for session_id in ids:
            for index, (stub, name) in enumerate(((stubs[0], ""), (stubs[1], "taken"), (stubs[1], "here"))):
                request = pb.StepRequest.FromString(unary(session_id, inputs).data)
                request.step_index = index
                began = time.perf_counter()
                stub.Step(request)
                if name:
                    took[name].append(time.perf_counter() - began)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            for _ in range(TAKEOVERS):
                began = time.perf_counter()
                connection.sendall(b"PING\r\n")
                connection.recv(16)
                took["store"].append(time.perf_counter() - began)
    values = {f"{name}_us": 1e6 * float(np.median(times)) for name, times in took.items()}
    return {**values, "extra_us": values["taken_us"] - values["here_us"]}


def report(results: Results) -> Table:
    """Each figure is the median of the rounds; ratios are of medians of interleaved rounds."""
    table = Table("sessions", "in memory, steps/s", "durable, steps/s", "ratio", "in memory, p50 us", "durable, p50 us")
    for count in SESSIONS:
        rates = [results.get(f"{kind}/{count}", "steps_s") or 0.0 for kind in ("memory", "durable")]
        waits = [results.get(f"{kind}/{count}", "p50_us") or 0.0 for kind in ("memory", "durable")]
        table.add_row(str(count), *(f"{r:,.0f}" for r in rates), f"{rates[1] / rates[0]:.2f}", *(f"{w:,.0f}" for w in waits))
    return table


def main(
    rounds: Annotated[int, typer.Option(help="Rounds; each figure is their median.", min=1)] = 5,
    seconds: Annotated[float, typer.Option(help="How long one measurement lasts.", min=0.1)] = 1.0,
) -> None:
    """Measure durable sessions against sessions in memory, with a local redis-server.

    Example: python -m bench.durability --rounds 5

    Leave the machine alone meanwhile.
    """
    try:
        server_core, load_core = cores()
        os.sched_setaffinity(0, {load_core})
        export(MODEL)
        setup = Setup(server_core, load_core, seconds, seconds / 3, False, build("client"), None)
        results = Results(machine())
        with part(setup) as measurements, console.status("measuring") as status:
            for number in range(rounds):
                for measurement in measurements:
                    status.update(f"round {number + 1} of {rounds}: {measurement.key}")
                    results.add(measurement)
    except (SetupError, ProcessError) as error:
        console.print(f"[red]bench:[/red] {error}", highlight=False)
        raise typer.Exit(1) from error
    console.print(report(results))
    most = SESSIONS[-1]
    ratio = (results.get(f"durable/{most}", "steps_s") or 0.0) / (results.get(f"memory/{most}", "steps_s") or 1.0)
    console.print(f"at {most} sessions durable keeps {ratio:.2f} of in memory; goal {GOAL}")
    taken, extra, ping = (results.get("takeover", f"{name}_us") or 0.0 for name in ("taken", "extra", "store"))
    console.print(
        f"a takeover's step takes {taken:,.0f} us, {extra:,.0f} more than a step at home; goal {ping + 1000:,.0f} more:"
    )
    console.print(f"a round trip to the store ({ping:,.0f} us) and 1 ms")


if __name__ == "__main__":
    typer.run(main)
