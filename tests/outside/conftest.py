"""Other people's programs, as `make outside` installs them. Where one is missing, its tests are skipped and say so."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import LIMIT

ROOT = Path(__file__).parents[2]
TRITON = ROOT / ".venv-triton"
KSERVE = ROOT / ".venv-kserve"
LIBRARIES = ROOT / ".venv-libraries"
BUF = ROOT / ".venv-buf/node_modules/.bin/buf"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def installed(path: Path, command: list[str], environment: dict[str, str]) -> bool:
    """Whether the program is there and starts."""
    return path.exists() and subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


def runner(program: list[str], environment: dict[str, str]) -> Run:
    def run(*arguments: object, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
        command = [*program, *map(str, arguments)]
        return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=LIMIT, check=False)

    return run


@pytest.fixture(scope="session")
def triton_python() -> Run:
    """The interpreter that has tritonclient: a process of its own, as the protocol's types can be registered once in one."""
    python, environment = TRITON / "bin/python", {"PATH": os.environ["PATH"]}
    if not installed(python, [str(python), "-c", "import tritonclient.grpc.aio, tritonclient.http"], environment):
        pytest.skip("there is no tritonclient in .venv-triton: make outside")
    return runner([str(python)], environment)


@pytest.fixture(scope="session")
def perf_analyzer() -> Run:
    """NVIDIA's load generator."""
    program = TRITON / "bin/perf_analyzer"
    environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(TRITON / "libs")}
    if not installed(program, [str(program), "--version"], environment):
        pytest.skip("there is no perf_analyzer that starts in .venv-triton: make outside")
    return runner([str(program)], environment)


@pytest.fixture(scope="session")
def kserve_python() -> Run:
    """The interpreter that has KServe's client."""
    python, environment = KSERVE / "bin/python", {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    if not installed(python, [str(python), "-c", "import kserve"], environment):
        pytest.skip("there is no kserve in .venv-kserve: make outside")
    return runner([str(python)], environment)


@pytest.fixture(scope="session")
def buf() -> Run:
    """buf lint, breaking and curl."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    if not installed(BUF, [str(BUF), "--version"], environment):
        pytest.skip("there is no buf in .venv-buf: make outside")
    return runner([str(BUF)], environment)


@pytest.fixture(scope="session")
def libraries_python() -> Run:
    """The interpreter that has libraries of recurrent models on top of what this one has."""
    python, environment = LIBRARIES / "bin/python", {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    if not installed(python, [str(python), "-c", "import statecell_export"], environment):
        pytest.skip("there are no libraries in .venv-libraries: make outside")
    return runner([str(python)], environment)
