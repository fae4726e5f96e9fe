"""What `make` does on a machine that is not quite ready."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LIMIT
from tests.test_packages import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/venv", tmp_path / ".ci/venv")
    return tmp_path


def make_venv(checkout: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    given = {"PYTHON": sys.executable, **environment}
    command = [checkout / ".ci/venv"]
    return subprocess.run(command, env=os.environ | given, capture_output=True, text=True, timeout=LIMIT, check=False)


def test_a_half_made_environment_is_made_again_and_a_whole_one_is_kept(checkout: Path) -> None:
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").symlink_to(sys.executable)  # what is left where ensurepip was missing
    done = make_venv(checkout)
    assert (done.returncode, done.stderr) == (0, "")
    assert "does not work; making it again" in done.stdout
    pip = checkout / ".venv/bin/pip"
    assert subprocess.run([pip, "--version"], capture_output=True, check=False).returncode == 0
    made = pip.stat().st_mtime_ns
    assert make_venv(checkout).stdout == ""
    assert pip.stat().st_mtime_ns == made


def test_a_python_without_venv_is_told_which_package_has_it(checkout: Path) -> None:
    lacking = checkout / "lacking"
    lacking.mkdir()
    (lacking / "ensurepip.py").write_text("raise ImportError\n")
    done = make_venv(checkout, PYTHONPATH=str(lacking))
    assert done.returncode == 1
    assert f"apt-get install python{sys.version_info[0]}.{sys.version_info[1]}-venv, then run make again" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_python_that_is_not_there_is_named(checkout: Path) -> None:
    done = make_venv(checkout, PYTHON="python3.99")
    assert done.returncode == 1
    assert "there is no python3.99 here" in done.stderr
