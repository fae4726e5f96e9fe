"""The statecell-export command, as a person types it."""

import argparse
import json
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from statecell_export import ExportError, ModuleRefusedError, export
from statecell_export.__main__ import app
from torch import nn
from typer.testing import CliRunner, Result

from tests.conftest import LIMIT
from tests.export import strangers

FACTORY = """
import torch
from torch import nn

class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.lstm, self.head = nn.Embedding(20, 6), nn.LSTM(6, 8), nn.Linear(8, 5)

    def forward(self, tokens):
        return self.head(self.lstm(self.embedding(tokens))[0])

def make():
    return Tagger()

def with_example():
    return Tagger(), torch.randint(20, (6, 2))

def number():
    return 3

def fails():
    raise ValueError("no such size")
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tagger.py and weights.pt, and the current one."""
    (tmp_path / "tagger_for_tests.py").write_text(FACTORY)
    (tmp_path / "broken_for_tests.py").write_text("1 / 0\n")
    (tmp_path / "needy_for_tests.py").write_text("import no_such_library\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    sys.modules.pop("tagger_for_tests", None)
    import tagger_for_tests  # type: ignore[import-not-found]

    torch.manual_seed(7)
    torch.save(tagger_for_tests.make().state_dict(), "weights.pt")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def told(result: Result) -> str:
    return re.sub(r"\s+", " ", result.output)


MODULE = ("module", "tagger_for_tests:make", "--checkpoint", "weights.pt", "--name", "tagger")


def test_module_with_checkpoint_is_exported_verified_and_inspected(workplace: Path) -> None:
    result = run(*MODULE, "--example", "tokens:int64[seq_len,batch]")
    assert result.exit_code == 0, result.output
    assert "models/tagger/1" in result.output
    assert run("verify", "models/tagger").exit_code == 0
    again = run("verify", "models/tagger/1", "--module", "tagger_for_tests:with_example", "--checkpoint", "weights.pt")
    assert again.exit_code == 0, again.output
    assert "comparisons with float64" in again.output
    for file in ("model.onnx", "model.pt"):
        seen = run("inspect", f"models/tagger/1/{file}")
        assert seen.exit_code == 0, seen.output
        assert "tokens int64[seq_len, batch]" in seen.output
        assert "h_0 -> h_n float32[1, batch, 8]" in seen.output


def test_verify_notices_another_module(workplace: Path) -> None:
    run("module", "tagger_for_tests:with_example", "--checkpoint", "weights.pt", "--name", "tagger")
    result = run("verify", "models/tagger", "--module", "tagger_for_tests:with_example")
    assert result.exit_code == 1
    assert "VerificationError: model.onnx: 'y' is off by" in told(result)


def test_verify_notices_a_changed_artifact(workplace: Path) -> None:
    run("module", "tagger_for_tests:with_example", "--name", "tagger")
    run("module", "tagger_for_tests:with_example", "--name", "other")
    Path("models/tagger/1/model.pt").write_bytes(Path("models/other/1/model.pt").read_bytes())
    result = run("verify", "models/tagger")
    assert result.exit_code == 1
    assert "carry different specs" in told(result)


def test_adopt_and_inspect_a_stranger(workplace: Path) -> None:
    strangers.vad(workplace / "stranger.onnx")
    seen = run("inspect", "stranger.onnx")
    assert seen.exit_code == 0, seen.output
    assert "LSTM in If 'which'" in seen.output
    assert "state -> stateN, by name and shape" in seen.output
    options = ("--state", "state:stateN", "--constant", "sr=16000", "--example", "input:float32[batch,32]")
    result = run("adopt", "stranger.onnx", "--name", "vad", *options)
    assert result.exit_code == 0, result.output
    assert run("verify", "models/vad").exit_code == 0
    assert "state -> stateN float32[2, batch, 6], begins at 0" in run("inspect", "models/vad").output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights.pop("head.bias"),
            "does not fit Tagger: Tagger has head.bias besides; make the module as it was",
        ),
        (
            lambda weights: weights.update(extra=torch.zeros(1)),
            "does not fit Tagger: it has extra besides; make the module as it was",
        ),
        (lambda weights: weights.update({"head.bias": torch.zeros(9)}), "'head.bias' is [9], Tagger has [5]"),
    ],
)
def test_checkpoint_that_does_not_fit_names_its_keys(workplace: Path, change: object, message: str) -> None:
    weights = torch.load("weights.pt", weights_only=True)
    change(weights)  # type: ignore[operator]
    torch.save(weights, "weights.pt")
    result = run(*MODULE, "--example", "tokens:int64[seq_len,batch]")
    assert result.exit_code == 1
    assert "CheckpointError: weights.pt" in told(result)
    assert message in told(result)
    assert not Path("models").exists()


def test_wrapped_and_prefixed_checkpoint_is_read(workplace: Path) -> None:
    weights = torch.load("weights.pt", weights_only=True)
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in weights.items()}}, "weights.pt")
    assert run(*MODULE, "--example", "tokens:int64[seq_len,batch]").exit_code == 0


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("sprung"),)  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["pickle", "module", "text", "absent"])
def test_checkpoint_that_is_no_plain_one_is_refused_and_runs_nothing(workplace: Path, kind: str) -> None:
    path = Path("weights.pt")
    path.unlink()
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Trap()))
    elif kind == "module":
        torch.save(nn.LSTM(3, 6), path)
    elif kind == "text":
        path.write_text("hello")
    result = run(*MODULE, "--example", "tokens:int64[seq_len,batch]")
    assert result.exit_code == 1
    assert "CheckpointError: weights.pt" in told(result)
    assert not Path("sprung").exists()
    assert not Path("models").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("module", "tagger_for_tests", "--name", "t"), "write it as pkg.mod:factory"),
        (("module", "no_such_module_here:make", "--name", "t"), "run from the folder that holds it"),
        (("module", "tagger_for_tests:nothing", "--name", "t"), "has no attribute 'nothing'"),
        (("module", "tagger_for_tests:number", "--name", "t"), "made a int, expected an nn.Module"),
        (("module", "tagger_for_tests:make", "--name", "t"), "an example is needed"),
        (("module", "tagger_for_tests:fails", "--name", "t"), "raised ValueError: no such size (tagger_for_tests.py, line 23)"),
        (("module", "broken_for_tests:make", "--name", "t"), "importing broken_for_tests raised ZeroDivisionError"),
        (("module", "needy_for_tests:make", "--name", "t"), "needs no_such_library, which is not installed here"),
        (("module", "tagger_for_tests:with_example", "--name", "t", "--out", "weights.pt"), "cannot write into weights.pt"),
        (("adopt", "weights.pt", "--name", "t"), "is not an ONNX file"),
        (("adopt", "weights.pt", "--name", "t", "--state", "h"), "write it as NAME:VALUE"),
        (("inspect", "weights.pt"), "cannot be read"),
        (("inspect", "nothing.onnx"), "does not exist"),
        (("verify", "nothing"), "holds neither model.onnx nor model.pt"),
    ],
)
def test_mistake_is_told_in_one_message(workplace: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in told(result)
    assert "Traceback" not in result.output


def test_every_command_has_help_with_an_example() -> None:
    for command in ("examples", "module", "adopt", "verify", "inspect"):
        assert f"Example: statecell-export {command}" in told(run(command, "--help"))


def test_a_whole_module_and_other_objects_in_a_checkpoint_are_told_in_own_words(workplace: Path) -> None:
    weights = torch.load("weights.pt", weights_only=True)
    for held, message in [
        (nn.LSTM(3, 6), "is a whole module (torch.nn.modules.rnn.LSTM)"),
        ({"state_dict": weights, "args": argparse.Namespace(rate=1)}, "holds argparse.Namespace beside its tensors"),
        ({"epoch": 3, "name": "x"}, "holds a dict without tensors by name"),
        ({"net": {"w": torch.zeros(1)}}, "holds net: w; Tagger has embedding.weight, lstm.weight_ih_l0"),
        ({"model": weights, "ema": weights}, "several sets of weights that fit Tagger: model, ema"),
    ]:
        torch.save(held, "weights.pt")
        result = run(*MODULE, "--example", "tokens:int64[seq_len,batch]")
        assert result.exit_code == 1
        assert message in told(result)
        assert "\x1b" not in result.output


@pytest.mark.parametrize("prefix", ["net.", "model._orig_mod.", "_orig_mod.module."])
def test_weights_are_found_within_other_dicts_and_behind_prefixes(workplace: Path, prefix: str) -> None:
    import tagger_for_tests
    from statecell_export import checkpoint

    weights = torch.load("weights.pt", weights_only=True)
    behind = {f"{prefix}{key}": value for key, value in weights.items()} | {"criterion.weight": torch.ones(2)}
    torch.save({"epoch": 3, "nested": {"net": behind}, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}, "weights.pt")
    module = tagger_for_tests.make()
    checkpoint.load(module, Path("weights.pt"))
    assert all(torch.equal(module.state_dict()[key], value) for key, value in weights.items())


def test_swapped_axes_are_guessed(workplace: Path) -> None:
    Path("first_for_tests.py").write_text(
        "from torch import nn\nclass First(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.rnn = nn.GRU(4, 6, batch_first=True)\n    def forward(self, x):\n        return self.rnn(x)[0]\n"
    )
    result = run("module", "first_for_tests:First", "--name", "first", "--example", "x:float32[seq_len,batch,4]")
    assert result.exit_code == 1
    assert "did you mean x:float32[batch,seq_len,4]?" in told(result)
    assert run("module", "first_for_tests:First", "--name", "first", "--example", "x:float32[batch,seq_len,4]").exit_code == 0


def test_numbers_in_place_of_axes_are_warned_of(workplace: Path) -> None:
    result = run(*MODULE, "--example", "tokens:int64[6,2]")
    assert "warning: tokens:int64[6,2] fixes seq_len and batch at these numbers" in told(result)


def test_names_are_the_same_words_in_python_and_in_the_shell(workplace: Path) -> None:
    result = run("module", "tagger_for_tests:with_example", "--name", "my tagger")
    assert result.exit_code == 1
    assert "model name 'my tagger'" in told(result)
    assert "such as my_tagger" in told(result)
    with pytest.raises(ExportError, match="such as my_tagger"):
        export(nn.LSTM(3, 6), torch.zeros(5, 3, 3), name="my tagger")
    assert run("module", "tagger_for_tests:with_example", "--name", "tägger-2.0_a").exit_code == 0


def test_weights_in_place_of_a_module_are_told_apart() -> None:
    with pytest.raises(ModuleRefusedError, match=r"module is a OrderedDict, expected an nn.Module; make the module and call"):
        export(nn.LSTM(3, 6).state_dict(), torch.zeros(5, 3, 3), name="lstm")  # type: ignore[arg-type]


def test_a_refusal_is_told_below_the_table_and_json_is_for_programs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    Path("last_for_tests.py").write_text(
        "from torch import nn\nclass Last(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.rnn = nn.GRU(4, 6)\n    def forward(self, x):\n        return self.rnn(x)[0][-1]\n"
    )
    command = ("module", "last_for_tests:Last", "--name", "last", "--example", "x:float32[seq_len,batch,4]")
    shown = run(*command).output
    assert "last cannot be stepped, only called whole: output 'y' has no time axis" in shown
    report = json.loads(run(*command, "--json").stdout)
    assert report["spec"]["streamable"] is False
    proof = json.loads(run("verify", "models/last", "--json").stdout)
    assert proof["streamable"] is False


def test_help_shows_axes_in_their_brackets_and_the_version_is_told() -> None:
    for command in ("module", "adopt"):
        assert "[seq_len,batch,10]" in told(run(command, "--help"))
    assert re.fullmatch(r"statecell-export \d+\.\d+\.\d+\n", run("--version").stdout)


def test_help_does_not_wait_for_pytorch() -> None:
    code = "import sys; from statecell_export.__main__ import app; print('torch' in sys.modules, 'onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout == "False False\n"


def test_ctrl_c_while_a_module_is_imported_ends_without_a_traceback(workplace: Path) -> None:
    Path("slow_for_tests.py").write_text("import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(600)\n")
    command = ["env", "--default-signal=INT", sys.executable, "-m", "statecell_export", "module", "slow_for_tests:make"]
    with subprocess.Popen([*command, "--name", "slow"], stderr=subprocess.PIPE, text=True) as process:
        try:
            while not Path("begun").exists():
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, complaints = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert process.returncode not in (0, -signal.SIGKILL)
    assert "Traceback" not in complaints
