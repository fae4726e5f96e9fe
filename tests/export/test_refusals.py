"""A failed export says what is wrong and what to change, and leaves nothing."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from statecell_export import ExampleError, ExportError, ModuleRefusedError, VerificationError, export
from statecell_export.writing import recipes as recipes_module
from statecell_export.writing import torchscript
from statecell_export.writing.build import direct
from torch import Tensor, nn

from tests.export.zoo import Packed, X


class TooManyAxes(nn.Module):
    """Two inputs whose axes cannot be told apart: both may be the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lstm(x[::2])[0]
        return y


class FixedBatch(nn.Module):
    """A size of the example's in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lstm(x, (torch.zeros(1, 2, 6), torch.zeros(1, 2, 6)))[0]
        return y


class PacksAll(Packed):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, torch.full((x.size(0),), x.size(1)))


@pytest.mark.parametrize(
    ("module", "example", "message"),
    [
        (nn.LSTM(3, 6), torch.zeros(5, 2, 4), "LSTM.forward fails on x float32[5, 2, 4]"),
        (nn.LSTM(3, 6), (), "does not fit LSTM.forward"),
        (nn.LSTM(3, 6), {"y": X}, "does not fit LSTM.forward(input, hx=None)"),
        (nn.LSTM(3, 6), "x:float32(seq_len,batch,3)", 'write it as "x:float32[seq_len,batch,10]"'),
        (nn.LSTM(3, 6), "x:float128[seq_len,batch,3]", "has dtype 'float128', expected one of float32"),
        (nn.LSTM(3, 6), "x:float32[time,batch,3]", "has an axis 'time', expected 'batch', 'seq_len' or a size"),
        (nn.LSTM(3, 6), "x:float32[seq_len,batch,7]", "fails on x float32[5, 3, 7]"),
        (FixedBatch(), X, "Expected hidden[0] size (1, 3, 6), got [1, 2, 6]); name them"),
        (FixedBatch(), X, "let forward take its sizes from x"),
        (TooManyAxes(), X, 'name them, as in example=["x:float32[seq_len,batch,10]"]'),
    ],
)
def test_wrong_example_is_named(tmp_path: Path, module: nn.Module, example: Any, message: str) -> None:
    with pytest.raises(ExampleError, match=re.escape(message)):
        export(module, example, name="m", out=tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            nn.LSTM(3, 6).double(),
            "parameter 'weight_ih_l0' is torch.float64, expected torch.float32; call module.float() first",
        ),
        (PacksAll(), "packs its sequences by lengths that are no argument of it; take lengths as an int64 tensor [batch]"),
    ],
)
def test_refused_module_is_told_what_to_change(tmp_path: Path, module: nn.Module, message: str) -> None:
    with pytest.raises(ModuleRefusedError, match=re.escape(message)):
        export(module, X, name="m", out=tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "version"), [("", 1), ("a/b", 1), (".hidden", 1), ("m", 0)])
def test_name_or_version_that_is_no_folder_is_refused(tmp_path: Path, name: str, version: int) -> None:
    with pytest.raises(ExportError):
        export(nn.LSTM(3, 6), X, name=name, out=tmp_path / "models", version=version)
    assert list(tmp_path.iterdir()) == []


def test_artifact_that_is_wrong_by_a_hair_names_case_and_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(module: Any, spec: Any) -> Any:
        broken = nn.LSTM(3, 6)
        broken.load_state_dict({key: value * 1.001 for key, value in module.state_dict().items()})
        return direct(broken, spec)

    monkeypatch.setattr(recipes_module, "direct", wrong)
    monkeypatch.setattr(recipes_module, "_traced_script", lambda source: torchscript.trace(
        type(source.lifted)(nn.LSTM(3, 6), source.found.plan), source.tensors(5)))  # fmt: skip
    with pytest.raises(
        VerificationError, match=r"model.onnx: '\w+' is off by .*, .* is allowed \(whole, seq_len \d+, batch \d+, \w+ state\)"
    ):
        export(nn.LSTM(3, 6), X, name="m", out=tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


def test_module_is_left_as_it_was(tmp_path: Path) -> None:
    module = nn.LSTM(3, 6, 2, dropout=0.5)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    export(module, X, name="m", out=tmp_path)
    assert module.training
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert nn.LSTM.forward.__qualname__ == "LSTM.forward"
