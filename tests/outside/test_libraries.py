"""Recurrent models of other libraries, as they are installed, exported without a wrapper and stepped beside themselves."""

import json
import re
from pathlib import Path

import pytest

from tests.outside.conftest import Run

PROGRAM = Path(__file__).with_name("library_program.py")
LIBRARIES = {
    "sb3_contrib": "sb3_contrib",
    "torchrl": "torchrl",
    "lightning": "pytorch_lightning",
    "ncps": "ncps",
    "torchaudio": "torchaudio",
    "silero_vad": "silero_vad",
}
ASKED = {
    "sb3_contrib": r"nothing tells which carries on which.*constants=\{'episode_starts': 0\}",
    "ncps": "may be given hx and timespans, which the example leaves out.*put it into the example",
    "silero_vad": r'name them by --example as in "input:float32\[.*fix an input that selects by --constant',
}
"""What the exporter asks for where it is given less than it needs."""


@pytest.mark.parametrize("library", LIBRARIES)
def test_its_models_are_stepped_as_their_users_step_them(libraries_python: Run, library: str, tmp_path: Path) -> None:
    there = libraries_python("-W", "ignore", "-c", f"import {LIBRARIES[library]}")
    if there.returncode != 0:
        pytest.skip(
            f"{library} is not in .venv-libraries, or cannot be imported there: {there.stderr.strip().splitlines()[-1]}"
        )
    ran = libraries_python("-W", "ignore", PROGRAM, library, tmp_path)
    assert ran.returncode == 0, ran.stderr
    models = [json.loads(line) for line in ran.stdout.splitlines()]
    assert models
    for model in models:
        assert model["streamable"], model
        assert "model.onnx" in model["files"], model
        assert model["error"] < 2e-5, model
    asked = [model["asked"] for model in models if model["asked"]]
    assert bool(asked) == (library in ASKED)
    for words in asked:
        assert re.search(ASKED[library], words, re.DOTALL), words
