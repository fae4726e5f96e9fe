"""A stranger's load: NVIDIA's perf_analyzer against the Open Inference Protocol, unary and streaming."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
from statecell.oip import inference_pb2 as pb
from statecell.oip import inference_pb2_grpc

from bench.process import ROOT, ProcessError, Server, listening, module, output, start
from bench.results import Measurement, Values
from bench.serving import statecell
from bench.setup import SHAPES, Setup, SetupError, repository

TRITON = ROOT / ".venv-triton"
CONCURRENCY = (1, 16, 64, 256)
FRONTS = {"unary": [], "streaming": ["--streaming"]}
REQUESTS = {"1x128": 16_000, "1x512": 12_000, "2x1024": 3_000}
SEQUENCE_LENGTH = 20
SAMPLE_SECONDS = 0.1
SKIPPED = 0.2
"""Of the requests, at the beginning and at the end of a measurement."""
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """What the server and the load had done at a time."""

    time: float
    requests: int
    rows: int
    runs: int
    server_seconds: float
    load_seconds: float


def installed() -> bool:
    """Whether there is a perf_analyzer."""
    return (TRITON / "bin" / "perf_analyzer").exists()


def command(model: str, front: str, concurrency: int, address: str, requests: int) -> list[str]:
    """What a stranger would type. Raises SetupError."""
    if not installed():
        raise SetupError(f"there is no perf_analyzer in {TRITON}; install it with: make outside")
    where = ["-m", model, "-u", address, "-i", "grpc", "--shape", f"x:1,1,{SHAPES[model][1]}"]
    how = ["--sequence-length", str(SEQUENCE_LENGTH), "--concurrency-range", str(concurrency), "--input-data", "zero"]
    # It leaves sequences live behind it, and begins with the same ids again.
    how += ["--request-parameter", "sequence_replace:true:bool"]
    return [str(TRITON / "bin" / "perf_analyzer"), *where, *how, "--request-count", str(requests), *FRONTS[front]]


@contextmanager
def part(setup: Setup) -> Iterator[list[Measurement]]:
    """The measurements, a server for each model running."""
    with ExitStack() as stack:
        found = []
        for model in SHAPES:
            found.append(Measurement(f"oip/{model}/inside", partial(_inside, model, setup)))
            server = stack.enter_context(listening(statecell(model), setup.server_core))
            for front in FRONTS:
                for concurrency in CONCURRENCY:
                    run = partial(measure, model, front, concurrency, server, setup)
                    found.append(Measurement(f"oip/{model}/{front} {concurrency}", run))
        yield found


def _inside(model: str, setup: Setup) -> Values:
    arguments = repository(model), model, SHAPES[model][1], setup.seconds
    values: Values = json.loads(output(module("bench.oip_inside", *arguments), setup.server_core)[0])
    return values


def measure(model: str, front: str, concurrency: int, server: Server, setup: Setup) -> Values:
    """Steps a second as the server counted them: perf_analyzer rounds the time of a fixed number of requests up to seconds.

    Raises ProcessError, SetupError.
    """
    requests = REQUESTS[model] // (4 if concurrency == 1 else 1) // (10 if setup.quick else 1)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(TRITON / "libs")}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "env": environment}
    load = command(model, front, concurrency, server.address, requests)
    with start(load, setup.load_core, **options) as process, grpc.insecure_channel(server.address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        samples = [_sample(stub, model, server.pid, process.pid)]
        while process.poll() is None:
            time.sleep(SAMPLE_SECONDS)
            samples.append(_sample(stub, model, server.pid, process.pid))
        assert process.stdout is not None
        said = process.stdout.read().decode()
    if process.returncode or "Throughput" not in said:
        raise ProcessError(
            f"perf_analyzer ended with {process.returncode}:\n{said}\nthe server wrote:\n{server.log.read_text()}"
        )
    return _values(samples) | {f"{name}_us": _latency(said, name) for name in ("p50", "p99")}


def _sample(stub: inference_pb2_grpc.GRPCInferenceServiceStub, model: str, server: int, load: int) -> Sample:
    (stats,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name=model)).model_stats
    counts = stats.inference_stats.success.count, stats.inference_count, stats.execution_count
    return Sample(time.perf_counter(), *counts, _cpu(server), _cpu(load))


def _cpu(pid: int) -> float:
    """Seconds that the process has run for; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def _values(samples: list[Sample]) -> Values:
    """Between the samples at which a fifth and four fifths of the requests were done."""
    first, last = samples[0].requests, samples[-1].requests
    at = [first + part * (last - first) for part in (SKIPPED, 1 - SKIPPED)]
    inner = [sample for sample in samples if at[0] <= sample.requests <= at[1]]
    a, b = (inner[0], inner[-1]) if len(inner) > 1 else (samples[0], samples[-1])
    steps, seconds = b.requests - a.requests, b.time - a.time
    return {
        "steps_s": steps / seconds,
        "batch": (b.rows - a.rows) / max(1, b.runs - a.runs),
        "server_us": 1e6 * (b.server_seconds - a.server_seconds) / max(1, steps),
        "server_busy": (b.server_seconds - a.server_seconds) / seconds,
        "client_busy": (b.load_seconds - a.load_seconds) / seconds,
    }


def _latency(said: str, name: str) -> float:
    found = re.search(rf"{name} latency: (\d+) usec", said)
    if found is None:
        raise ProcessError(f"perf_analyzer told no {name} latency:\n{said}")
    return float(found[1])
