"""The common case: one call, both artifacts, proven, with the spec inside."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from statecell.spec import SPEC_KEY, ModelSpec
from statecell_export import ExampleError, export
from statecell_export.writing.torchscript import load
from torch import Tensor, nn

from tests.export.zoo import SCRIPT_ONLY, ZOO


def test_export_writes_both_artifacts_and_the_report_with_the_spec_inside(tmp_path: Path) -> None:
    report = export(nn.LSTM(10, 20, 2), torch.zeros(5, 3, 10), name="lstm", out=tmp_path)
    folder = tmp_path / "lstm" / "1"
    assert sorted(file.name for file in folder.iterdir()) == ["model.onnx", "model.pt", "report.json"]
    model = onnx.load(folder / "model.onnx")
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert ModelSpec.from_json(properties[SPEC_KEY]) == report.spec == load(folder / "model.pt")[1]
    assert json.loads((folder / "report.json").read_text())["worst_error"] == report.proof.worst_error < 1e-6
    assert report.spec.streamable


def test_refused_export_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExampleError, match=r"forward fails on x float32\[5, 3, 9\]"):
        export(nn.LSTM(10, 20), torch.zeros(5, 3, 9), name="lstm", out=tmp_path)
    assert list(tmp_path.iterdir()) == []


class OwnStep(nn.Module):
    """y and the next state have one shape, and so has x."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.h = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.x(x) + self.h(h))
        return 3 * h, h


class CellAndState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self.cell(x, h)
        return self.head(h), h


class StateFirst(CellAndState):
    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y, h = super().forward(x, h)
        return h, y


@pytest.mark.parametrize(("kind", "output", "state"), [(OwnStep, 0, 1), (CellAndState, 0, 1), (StateFirst, 1, 0)])
def test_result_that_carries_the_state_on_is_told_from_one_of_its_shape(
    tmp_path: Path, kind: type[nn.Module], output: int, state: int
) -> None:
    module = kind().eval()
    report = export(module, (torch.randn(2, 4), torch.zeros(2, 4)), name="m", out=tmp_path)
    assert [s.input for s in report.spec.states] == ["h_0"]
    session = onnxruntime.InferenceSession(report.path / "model.onnx")
    h, wanted = np.zeros((2, 4), np.float32), torch.zeros(2, 4)
    for x in torch.randn(5, 2, 4):
        y, h = session.run(["y", "h_n"], {"x": x.numpy(), "h_0": h})
        with torch.no_grad():
            results = module(x, wanted)
        wanted = results[state]
        assert np.abs(y - results[output].numpy()).max() < 1e-6


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1), (1, 4), (4, 1), (4, 4)])
def test_axes_are_found_from_an_example_of_any_size(tmp_path: Path, sizes: tuple[int, int], batch_first: bool) -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 5, batch_first=batch_first), nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.lstm(x)[0])
            return y

    report = export(Head(), torch.randn(*sizes, 4), name="m", out=tmp_path)
    names = ("batch", "seq_len") if batch_first else ("seq_len", "batch")
    assert report.spec.inputs[0].shape == report.spec.outputs[0].shape == (*names, 4)


def test_what_is_scripted_once_is_scripted_again_in_the_same_process(tmp_path: Path) -> None:
    entry = next(entry for entry in ZOO if entry.gives == SCRIPT_ONLY and entry.streamable)
    for version in (1, 2):
        module, example = entry.make()
        report = export(module.eval(), example, name="again", out=tmp_path, version=version)
        assert set(report.artifacts) == {"model.pt"}
