"""A minute of fuzzing, all targets together; `make fuzz` takes longer."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LIMIT
from tests.fuzz.targets import TARGETS

HERE = Path(__file__).parent
SECONDS = 60 // len(TARGETS)
KEPT = [(path.parent.name, path) for path in sorted((HERE / "corpus").glob("*/*"))]


@pytest.mark.parametrize(("target", "path"), KEPT, ids=lambda value: value if isinstance(value, str) else value.name)
def test_a_kept_input_breaks_nothing(target: str, path: Path) -> None:
    TARGETS[target](path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_cut_and_changed_inputs_break_nothing(target: str) -> None:
    for content in [path.read_bytes() for name, path in KEPT if name == target]:
        for at in range(0, len(content), max(len(content) // 40, 1)):
            TARGETS[target](content[:at])
            TARGETS[target](content[:at] + bytes([content[at] ^ 0x81]) + content[at + 1 :])


@pytest.mark.parametrize("target", TARGETS)
def test_seconds_of_guided_fuzzing_break_nothing(target: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("needs atheris, which has wheels for Linux on x86: pip install -r requirements-dev.txt")
    # The same changes each time: what is new is for `make fuzz` to find, and a suite that passed passes again.
    command = [sys.executable, "-m", "tests.fuzz", target, "--seconds", str(SECONDS), "--seed", "1", "--found", str(tmp_path)]
    ended = subprocess.run(
        command,
        cwd=HERE.parents[1],
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert "Done " in ended.stderr
    assert not list(tmp_path.iterdir())


def test_the_kept_inputs_are_few_and_small_and_of_every_target() -> None:
    assert {target for target, _ in KEPT} == TARGETS.keys()
    assert sum(path.stat().st_size for _, path in KEPT) < 64 << 10
