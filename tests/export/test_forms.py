"""Other number formats are proven against the module with the same rounded weights; what the rounding costs is reported."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from statecell_export import ExportError, ModuleRefusedError, export
from statecell_export.graph import graphs
from torch import nn

from tests.export.zoo import BATCH_FIRST, LoopOverCell, OwnZeros, Speaker, Tagger, X


@pytest.mark.parametrize("form", ["float16", "int8"])
@pytest.mark.parametrize(
    ("make", "example"),
    [
        (lambda: nn.LSTM(3, 40, 2, proj_size=33), X),
        (lambda: nn.GRU(3, 6, bidirectional=True), X),
        (lambda: nn.RNN(3, 6), X),
        (lambda: nn.LSTMCell(3, 6), X[0]),
        (Tagger, torch.randint(20, (6, 2))),
        (OwnZeros, BATCH_FIRST),
        (LoopOverCell, X),
        (Speaker, (X, torch.tensor([0, 3]), torch.tensor(1.5))),
    ],
    ids=["LSTM", "GRU", "RNN", "LSTMCell", "tagger", "own zeros", "loop", "extra inputs"],
)
def test_form_is_exported_with_its_accuracy(tmp_path: Path, form: str, make: type[nn.Module], example: object) -> None:
    torch.manual_seed(0)
    report = export(make(), example, name="m", out=tmp_path, form=form)
    assert list(report.artifacts) == ["model.onnx"]
    assert report.form == form
    assert 0 < max(report.accuracy["model.onnx"].values()) < 0.05
    floats = {"float16": "float16", "int8": "float32"}
    assert {state.dtype for state in report.spec.states} == {floats[form]}


def test_eight_bit_weights_are_a_quarter_of_the_size(tmp_path: Path) -> None:
    module = nn.LSTM(128, 128)
    whole = export(module, torch.zeros(5, 3, 128), name="whole", out=tmp_path).artifacts["model.onnx"]["bytes"]
    small = export(module, torch.zeros(5, 3, 128), name="small", out=tmp_path, form="int8").artifacts["model.onnx"]["bytes"]
    assert small < whole * 0.32
    model = onnx.load(tmp_path / "small" / "1" / "model.onnx")
    kinds = {node.op_type for graph in graphs(model.graph) for node in graph.node}
    assert "MatMulNBits" in kinds
    assert "DynamicQuantizeLinear" not in kinds


def test_eight_bit_row_is_bit_for_bit_the_same_alone_and_among_64(tmp_path: Path) -> None:
    torch.manual_seed(0)
    export(nn.LSTM(20, 48, 2), torch.zeros(5, 3, 20), name="m", out=tmp_path, form="int8")
    session = onnxruntime.InferenceSession(tmp_path / "m" / "1" / "model.onnx")
    random = np.random.default_rng(0)
    x, h, c = (random.standard_normal(s).astype(np.float32) for s in ((4, 64, 20), (2, 64, 48), (2, 64, 48)))
    among = session.run(None, {"x": x, "h_0": h, "c_0": c})
    for row in range(0, 64, 9):
        alone = session.run(None, {"x": x[:, [row]], "h_0": h[:, [row]], "c_0": c[:, [row]]})
        assert all(np.array_equal(a, b[:, [row]]) for a, b in zip(alone, among, strict=True))


def test_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
    module = nn.LSTM(3, 6)
    module.get_parameter("weight_ih_l0").data[0, 0] = 1e6
    with pytest.raises(ModuleRefusedError, match="'weight_ih_l0' does not fit float16: its largest magnitude is 1e"):
        export(module, X, name="m", out=tmp_path, form="float16")


def test_unknown_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="form is 'int4', expected one of float32, float16, int8"):
        export(nn.LSTM(3, 6), X, name="m", out=tmp_path, form="int4")
