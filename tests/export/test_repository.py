"""A reader of the repository never sees half a version."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from statecell_export import export
from statecell_export.repository import new_version
from torch import nn


def test_version_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def interrupted() -> None:
        with new_version(tmp_path / "models", "m", 1) as folder:
            (folder / "model.onnx").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_failure_keeps_the_version_that_was_there(tmp_path: Path) -> None:
    def write(text: str, divisor: int) -> None:
        with new_version(tmp_path, "m", 1) as folder:
            (folder / "model.onnx").write_text(text)
            _ = 1 / divisor

    write("good", 1)
    with pytest.raises(ZeroDivisionError):
        write("half", 0)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["m", "m/1", "m/1/model.onnx"]
    assert (tmp_path / "m" / "1" / "model.onnx").read_text() == "good"


def test_version_is_replaced_and_others_stay(tmp_path: Path) -> None:
    for version, text in ((1, "old"), (2, "other"), (1, "new")):
        with new_version(tmp_path, "m", version) as folder:
            (folder / "model.onnx").write_text(text)
    assert {path.parent.name: path.read_text() for path in tmp_path.rglob("*.onnx")} == {"1": "new", "2": "other"}
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_exporting_again_gives_the_same_digest(tmp_path: Path) -> None:
    module = nn.LSTM(3, 6)
    reports = [export(module, torch.zeros(5, 2, 3), name="m", out=tmp_path) for _ in range(2)]
    assert reports[0].digest == reports[1].digest


@pytest.mark.parametrize("after", [0.2, 1.0])
def test_interrupted_command_leaves_nothing_half_written(tmp_path: Path, after: float) -> None:
    factory = "import torch\ndef make():\n    return torch.nn.LSTM(512, 512, 4), torch.zeros(5, 3, 512)\n"
    (tmp_path / "big.py").write_text(factory)
    command = [sys.executable, "-m", "statecell_export", "module", "big:make", "--name", "big", "--out", "models"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "models").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    files = sorted(path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix in {".onnx", ".pt", ".json"})
    assert files in ([], ["model.onnx", "model.pt", "report.json"])
    assert not list((tmp_path / "models").glob(".*"))
