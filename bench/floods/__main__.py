"""`python -m bench.floods`: a table of what a client that steps one session waits, for each flood, in ms."""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import numpy as np
from rich.progress import track
from statecell.tensor import pack
from statecell.v1 import inference_pb2 as pb
from statecell.v1 import inference_pb2_grpc

from bench.floods.kinds import NAMES
from bench.messages import sessions, x
from bench.process import ROOT, Server, listening, module
from bench.serving import statecell
from bench.setup import SHAPES, cores, export

MODEL = "1x128"
LOOPS = ("uvloop", "asyncio")
WARM = 0.5
"""Seconds that the client steps before the flood begins."""
PAUSE = 0.001
"""Seconds between an answer and the next step: a client that has something else to do."""


def command(loop: str) -> list[str]:
    """The server on uvloop, or with its import failing, as where it is not installed."""
    served = statecell(MODEL)
    if loop == "uvloop":
        return served
    line = "import sys; sys.modules['uvloop'] = None; from statecell_server.__main__ import app; app()"
    return [served[0], "-c", line, *served[3:]]


@contextmanager
def flooding(kind: str, server: Server, connections: int, seconds: float) -> Iterator[None]:
    if kind == "none":
        yield
        return
    arguments = module("bench.floods.sender", kind, server.address, connections, seconds)
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as sender:
        yield
        said = sender.communicate(timeout=60)[0].split()
    if sender.returncode or int(said[1]) == 0:
        raise SystemExit(f"the flood of {kind} did not take place: {said}")


def waits(server: Server, seconds: float) -> np.ndarray:
    """Of a client in a closed loop, in ms. Raises grpc.RpcError where a step fails."""
    found = []
    inputs = [pack("x", x(1, 1, SHAPES[MODEL][1]))]
    with sessions(server.address, MODEL, 1) as (session_id,), grpc.insecure_channel(server.address) as channel:
        step = inference_pb2_grpc.InferenceServiceStub(channel).Step
        end = time.monotonic() + seconds
        for index in range(sys.maxsize):
            began = time.monotonic()
            if began > end:
                break
            step(pb.StepRequest(session_id=session_id, step_index=index, inputs=inputs), timeout=30)
            found.append(1e3 * (time.monotonic() - began))
            time.sleep(PAUSE)
    return np.array(found)


def measure(kind: str, loop: str, connections: int, seconds: float) -> tuple[float, float, float]:
    """(p50, p99, worst) in ms, beside a fresh server's flood."""
    with listening(command(loop), cores()[0]) as server:
        waits(server, WARM)
        with flooding(kind, server, connections, seconds + 0.5):
            time.sleep(0.5)  # until it has started
            found = waits(server, seconds)
    return float(np.median(found)), float(np.percentile(found, 99)), float(found.max())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.floods", description=__doc__, epilog="Example: python -m bench.floods --loop uvloop --only pings"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="that a flood lasts (default: 3)")
    parser.add_argument("--loop", choices=LOOPS, action="append", help="the server's event loop (default: both)")
    parser.add_argument("--connections", type=int, action="append", help="that flood at once (default: 1 and 20)")
    parser.add_argument("--only", choices=NAMES, action="append", help="this kind; repeatable")
    given = parser.parse_args()
    export(MODEL)
    settings = [(loop, connections) for loop in given.loop or LOOPS for connections in given.connections or (1, 20)]
    kinds = [kind for kind in NAMES if given.only is None or kind in given.only or kind == "none"]
    print("| flood | " + " | ".join(f"{loop}, {connections}: p50, p99, worst" for loop, connections in settings) + " |")
    print("|---|" + "---:|" * len(settings))
    for kind in track(kinds, description="floods", disable=not sys.stderr.isatty()):
        found = [measure(kind, loop, connections, given.seconds) for loop, connections in settings]
        print(f"| {kind} | " + " | ".join(", ".join(f"{wait:.1f}" for wait in one) for one in found) + " |", flush=True)


if __name__ == "__main__":
    main()
