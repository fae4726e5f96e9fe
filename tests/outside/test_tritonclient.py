"""NVIDIA's Python client, unchanged, against a real server."""

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Serve, Server
from tests.outside.conftest import Run
from tests.server.caller import Caller

PROGRAM = Path(__file__).with_name("triton_program.py")
X = np.random.default_rng(8).standard_normal((5, 7, 10), dtype=np.float32)


@pytest.mark.parametrize("kind", ["unary", "stream", "aio-unary", "aio-stream"])
def test_tritonclient_steps_sequences(triton_python: Run, server: Server, kind: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    run = triton_python(PROGRAM, server.address, kind, tmp_path / "x.npy", tmp_path / "y.npy")
    assert run.returncode == 0, run.stderr
    expected = Caller(server.address).infer("lstm", X.swapaxes(0, 1))["y"].swapaxes(0, 1)
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected)


def test_tritonclient_steps_sequences_over_rest(triton_python: Run, serve: Serve, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    with serve("--http-port", "0") as server:
        run = triton_python(PROGRAM, server.http, "http", tmp_path / "x.npy", tmp_path / "y.npy")
        assert run.returncode == 0, run.stderr
        expected = Caller(server.address).infer("lstm", X.swapaxes(0, 1))["y"].swapaxes(0, 1)
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected)


def test_kserves_client_steps_a_sequence_over_rest(kserve_python: Run, serve: Serve, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X[0])
    with serve("--http-port", "0") as server:
        run = kserve_python(PROGRAM.with_name("kserve_program.py"), server.http, tmp_path / "x.npy", tmp_path / "y.npy")
        assert run.returncode == 0, run.stderr
        expected = Caller(server.address).infer("lstm", X[0][:, None])["y"][:, 0]
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected)


def test_tritonclient_is_told_what_went_wrong(triton_python: Run, server: Server, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    run = triton_python(PROGRAM, server.address, "errors", tmp_path / "x.npy", tmp_path / "y.npy")
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        "StatusCode.NOT_FOUND: sequence '77' of model 'lstm' was never started here; begin it with sequence_start",
        "SESSION_NOT_FOUND: sequence '78' of model 'lstm' was never started here; begin it with sequence_start",
    ]
