"""What the image relies on, without building one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LIMIT, Server

DEPLOY = Path(__file__).parents[2] / "deploy"


def run(*command: str | Path, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=LIMIT, check=False)


def health_check(address: str) -> "subprocess.CompletedProcess[str]":
    """As the Dockerfile says it, of another address."""
    (line,) = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line.startswith("HEALTHCHECK")]
    program, *arguments = json.loads(line.partition(" CMD ")[2])
    return run(Path(sys.executable).with_name(program), *arguments[:-1], address)


def test_the_health_check_passes_on_a_serving_server(server: Server) -> None:
    done = health_check(server.address)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_health_check_fails_where_nobody_listens_and_says_where() -> None:
    done = health_check("127.0.0.1:1")
    assert done.returncode == 1
    assert done.stdout.startswith("127.0.0.1:1: UNAVAILABLE")


def test_the_server_loads_nothing_that_the_image_lacks() -> None:
    lacking = {"torch", "onnx", "statecell_export", "statecell_client"}
    done = run(sys.executable, "-c", f"import sys, statecell_server.app; print({lacking} & set(sys.modules))")
    assert (done.returncode, done.stdout) == (0, "set()\n")


@pytest.mark.parametrize(("engine", "message"), [("podman", "podman is not installed"), ("rkt", "ENGINE is 'rkt', expected")])
def test_an_engine_that_cannot_build_is_named(engine: str, message: str, tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash
    done = run(bash, DEPLOY / "build.sh", ENGINE=engine, IMAGE="any", PATH=str(tmp_path))
    assert done.returncode == 2
    assert message in done.stderr
