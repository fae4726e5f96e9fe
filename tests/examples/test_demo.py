import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from statecell_client import Client, ServerUnreachable
from statecell_examples import forecast
from statecell_examples.charlm import decode, encode, load
from statecell_examples.demo.server import ServerFailedError, serving
from statecell_examples.demo.text import PROMPT, characters
from statecell_examples.forecast.train import held_out_rmse

from tests.conftest import LIMIT


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], capture_output=True, text=True, timeout=LIMIT, check=False
    )


@pytest.fixture(scope="module")
def models(example_models: Path) -> Path:
    return example_models


def test_examples_that_are_unchanged_are_not_exported_again(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    shutil.copytree(models, out)
    changed = out / "lstm_cell" / "1" / "model.pt"
    whole = changed.read_bytes()
    changed.write_bytes(whole[:-1])
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    said = run("statecell_export", "examples", "--out", out).stdout
    for name in ("charlm", "forecast", "lstm"):
        assert f"{name}: exported already, and unchanged" in said
    assert "lstm_cell: exported and proven in" in said
    assert zipfile.is_zipfile(changed)  # whole again
    assert {p for p, time in before.items() if p.stat().st_mtime_ns != time} == {
        path for path in before if "lstm_cell" in path.parts
    }


def test_demo_writes_text_follows_the_series_and_equals_pytorch(models: Path, tmp_path: Path) -> None:
    demo = run("statecell_examples.demo", "--models", models, "--out", tmp_path / "out", "--length", "60")
    assert demo.returncode == 0, demo.stdout + demo.stderr
    said = " ".join(demo.stdout.split())
    assert "It is a truth universally acknowledged, that " in said
    rmse = re.search(r"RMSE ([0-9.]+) ppm", said)
    assert rmse is not None
    assert float(rmse[1]) == pytest.approx(held_out_rmse(forecast.load()), abs=1e-3)
    assert "nn.LSTMCell(10, 20), x [2, 3, 10]: remote and PyTorch differ by at most" in said
    assert "nn.LSTM(10, 20, 2), x [5, 3, 10]: remote and PyTorch differ by at most" in said
    assert "stopped with exit code 0" in said
    assert (tmp_path / "out" / "forecast.png").read_bytes().startswith(b"\x89PNG")


def test_text_written_through_the_server_is_the_text_that_pytorch_writes(models: Path) -> None:
    with serving(models) as address, Client(address) as client:
        remote = "".join(characters(client, 200))
    model, rng = load(), np.random.default_rng(1813)
    x, state, local = torch.from_numpy(encode(PROMPT))[None], None, ""
    with torch.no_grad():
        for _ in range(200):
            logits, state = model(x, state)
            weights = (logits[0, -1].double() / 0.5).softmax(0).numpy()
            x = torch.tensor([[rng.choice(len(weights), p=weights / weights.sum())]])
            local += decode(x[0].numpy())
    assert remote == local


def test_demo_without_models_says_how_to_make_them(tmp_path: Path) -> None:
    demo = run("statecell_examples.demo", "--models", tmp_path, "--out", tmp_path / "out")
    assert demo.returncode == 2
    said = " ".join(demo.stderr.replace("│", " ").split())  # whatever the width of the box
    assert "statecell-export examples --out" in said


def test_server_that_cannot_start_is_reported_with_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(ServerFailedError, match=r"before it was ready; it said:\n.*nowhere"), serving(tmp_path / "nowhere"):
        pass


def test_server_is_gone_when_the_block_raises(models: Path) -> None:
    with pytest.raises(ZeroDivisionError), serving(models) as address:
        raise ZeroDivisionError
    with pytest.raises(ServerUnreachable), Client(address) as client:
        client.session("charlm")
