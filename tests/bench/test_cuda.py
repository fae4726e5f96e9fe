"""bench/cuda.py runs as it stands, on the CPU, and says what it lacks for a GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from statecell_server.runtimes import driver

from tests.conftest import LIMIT

SCRIPT = Path(__file__).parents[2] / "bench" / "cuda.py"


def bench(*flags: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, str(SCRIPT), *flags], capture_output=True, text=True, timeout=LIMIT, check=False)


def test_every_form_of_a_step_is_checked_and_measured_on_the_cpu(tmp_path: Path) -> None:
    done = bench("--device", "cpu", "--shape", "1x128", "--seconds", "0.01", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "every result is right" in done.stdout
    (path,) = tmp_path.glob("cuda-*.json")
    report = json.loads(path.read_text())
    assert report["absent"] == {}
    forms = {"kernel", "device arena", "host arena", "CUDA graph", "torch"}
    assert {(cell["batch"], cell["form"]) for cell in report["cells"]} == {(n, form) for n in (1, 8, 32) for form in forms}
    assert all(cell["steps_per_second"] > 0 and cell["p50"] <= cell["p99"] for cell in report["cells"])
    assert 0 < report["errors"]["1x128/device arena"] < 2e-5 < report["errors"]["1x128/device arena, float16"] < 2e-2


@pytest.mark.skipif(driver.devices() > 0, reason="this machine has a GPU that its driver can use")
def test_without_a_gpu_it_says_what_is_missing_and_ends_with_2(tmp_path: Path) -> None:
    done = bench("--out", str(tmp_path))
    assert done.returncode == 2
    assert "cuda:0 cannot be used, what is missing: " in done.stderr
    assert "--device cpu" in done.stderr
    assert not list(tmp_path.iterdir())
