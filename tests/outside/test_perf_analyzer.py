"""NVIDIA's load generator, unchanged, against a real server."""

import re

import numpy as np
import pytest

from tests.conftest import Serve, Server
from tests.outside.conftest import Run
from tests.server.oip_caller import OipCaller

DATA = ["--input-data", "zero"]
"""Its default is random bytes, some of which are NaN as floats: the server refuses those."""


def figure(report: str, name: str) -> int:
    """The number behind `name:`."""
    found = re.search(rf"{name}: (\d+)", report)
    assert found, report
    return int(found[1])


@pytest.mark.parametrize(
    "flags",
    [
        ["--sequence-length", "20"],
        ["--sequence-length", "20", "--streaming"],
        ["--sequence-length", "20", "--serial-sequences"],
        ["--sequence-length", "20", "--streaming", "--serial-sequences", "--sequence-id-range", "1:100"],
        ["--sequence-length", "1", "--string-length", "8"],
    ],
    ids=" ".join,
)
def test_perf_analyzer_runs_sequences(perf_analyzer: Run, serve: Serve, flags: list[str]) -> None:
    with serve() as server:
        where = ["-m", "lstm", "-u", server.address, "-i", "grpc", "--shape", "x:1,1,10", *DATA]
        run = perf_analyzer(*where, *flags, "--concurrency-range", "8", "--request-count", "400")
    assert run.returncode == 0, run.stdout + run.stderr
    assert figure(run.stdout, "Request count") >= 400
    assert figure(run.stdout, "Sequence count") > 0
    assert figure(run.stdout, "Successful request count") >= 390
    assert figure(run.stdout, "Execution count") > 0


def test_perf_analyzer_may_begin_again_with_the_ids_that_it_left_live(perf_analyzer: Run, server: Server) -> None:
    for name in range(1, 9):
        OipCaller(server.address).infer("lstm", np.zeros((1, 1, 10), np.float32), sequence_id=name, sequence_start=True)
    where = ["-m", "lstm", "-u", server.address, "-i", "grpc", "--shape", "x:1,1,10", *DATA, "--sequence-length", "20"]
    asked = ["--request-parameter", "sequence_replace:true:bool"]
    runs = [perf_analyzer(*where, *flags, "--concurrency-range", "8", "--request-count", "400") for flags in ([], asked)]
    assert runs[0].returncode != 0
    assert "is live at step_index" in runs[0].stdout + runs[0].stderr
    assert runs[1].returncode == 0, runs[1].stdout + runs[1].stderr


def test_perf_analyzer_runs_over_rest(perf_analyzer: Run, serve: Serve) -> None:
    with serve("--http-port", "0") as server:
        for model, flags in (
            ("lstm", ["--shape", "x:1,1,10", "--sequence-length", "20"]),
            ("bidirectional", ["--shape", "x:5,3,10"]),
        ):
            where = ["-m", model, "-u", server.http, "-i", "http", *DATA, *flags]
            run = perf_analyzer(*where, "--concurrency-range", "4", "--request-count", "200")
            assert run.returncode == 0, run.stdout + run.stderr
            assert figure(run.stdout, "Successful request count") >= 190


def test_perf_analyzer_runs_on_its_own_data_again_and_again_where_nan_and_restarts_are_allowed(
    perf_analyzer: Run, serve: Serve
) -> None:
    with serve("--non-finite", "allow", "--sequence-start", "restart") as server:
        where = ["-m", "lstm", "-u", server.address, "-i", "grpc", "--shape", "x:1,1,10", "--sequence-length", "20"]
        for _ in range(2):
            run = perf_analyzer(*where, "--concurrency-range", "8", "--request-count", "400")
            assert run.returncode == 0, run.stdout + run.stderr
            assert figure(run.stdout, "Successful request count") >= 390


def test_perf_analyzer_runs_a_model_that_has_no_sequences(perf_analyzer: Run, server: Server) -> None:
    where = ["-m", "bidirectional", "-u", server.address, "-i", "grpc", "--shape", "x:5,3,10", *DATA]
    run = perf_analyzer(*where, "--concurrency-range", "4", "--request-count", "100")
    assert run.returncode == 0, run.stdout + run.stderr
    assert figure(run.stdout, "Request count") >= 100
    assert "Sequence count" not in run.stdout
