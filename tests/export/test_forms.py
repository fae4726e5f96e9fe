"""Other number formats are proven against the module with the same rounded weights; what the rounding costs is reported."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from statecell_export import ExportError, ModuleRefusedError, Report, export
from statecell_export.proving.runners import signature_in
from statecell_export.reading.recurrent import Array
from statecell_export.writing.forms import FORMS
from statecell_export.writing.graph import graphs
from torch import nn
from torch.nn.utils import parametrizations

from tests.export.zoo import BATCH_FIRST, LoopOverCell, OwnZeros, Speaker, Tagger, X

MODULES = pytest.mark.parametrize(
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


def drawn(shape: tuple[int, ...], dtype: str, random: np.random.Generator) -> Array:
    return np.asarray(random.standard_normal(shape) if dtype == "float32" else random.integers(1, 4, shape)).astype(dtype)


def session(report: Report, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if optimized:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(report.path / "model.onnx", options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("form", ["float16", "int8"])
@MODULES
def test_form_is_exported_with_its_accuracy(tmp_path: Path, form: str, make: type[nn.Module], example: object) -> None:
    torch.manual_seed(0)
    report = export(make(), example, name="m", out=tmp_path, form=form)
    assert list(report.artifacts) == ["model.onnx"]
    assert report.form == form
    assert 0 < max(report.accuracy["model.onnx"].values()) < 0.05
    floats = {"float16": "float16", "int8": "float32"}
    assert {state.dtype for state in report.spec.states} == {floats[form]}


@MODULES
def test_eight_bit_model_is_the_float32_model_of_the_rounded_weights_to_the_bit(
    tmp_path: Path, make: type[nn.Module], example: object
) -> None:
    torch.manual_seed(0)
    module = make()
    small = export(module, example, name="small", out=tmp_path, form="int8")
    FORMS["int8"].weights(module)
    whole = export(module, example, name="whole", out=tmp_path)
    random = np.random.default_rng(0)
    for seq_len, batch in ((1, 1), (1, 5), (9, 2)):
        feed = {t.name: drawn(t.sized(seq_len=seq_len, batch=batch), t.dtype, random) for t in signature_in(small.spec)}
        results = [session(report).run(None, feed) for report in (small, whole)]
        assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


@MODULES
def test_eight_bit_model_runs_as_the_nodes_of_the_float32_model(tmp_path: Path, make: type[nn.Module], example: object) -> None:
    kinds = []
    for form in ("int8", "float32"):
        torch.manual_seed(0)
        session(export(make(), example, name=form, out=tmp_path, form=form), tmp_path / "optimized.onnx")
        model = onnx.load(tmp_path / "optimized.onnx")
        kinds.append(sorted(node.op_type for graph in graphs(model.graph) for node in graph.node))
    assert kinds[0] == kinds[1]


def test_eight_bit_export_is_held_to_the_tolerance_of_float32(tmp_path: Path) -> None:
    reports = []
    for form in ("int8", "float32"):
        torch.manual_seed(0)
        reports.append(export(nn.LSTM(128, 128, 2), torch.zeros(5, 3, 128), name=form, out=tmp_path, form=form))
    small, whole = reports
    assert small.proof.worst_error <= small.proof.tolerance < 1e-5
    assert small.proof.tolerance == pytest.approx(whole.proof.tolerance)
    assert max(small.accuracy["model.onnx"].values()) > 100 * small.proof.tolerance, "rounding would be seen"


def test_eight_bit_weights_are_a_quarter_of_the_size(tmp_path: Path) -> None:
    module = nn.LSTM(128, 128)
    whole = export(module, torch.zeros(5, 3, 128), name="whole", out=tmp_path).artifacts["model.onnx"]["bytes"]
    small = export(module, torch.zeros(5, 3, 128), name="small", out=tmp_path, form="int8").artifacts["model.onnx"]["bytes"]
    assert small < whole * 0.27


def test_eight_bit_weights_are_rounded_within_their_own_row() -> None:
    weight = torch.tensor([[1.0, -0.3, 0.004], [1e-3, 2e-3, -3e-3], [0.0, 0.0, 0.0], [1e-42, 0.0, 3e38]])
    module = nn.Linear(3, 4, bias=False)
    module.weight.data.copy_(weight)
    FORMS["int8"].weights(module)
    once = module.weight.detach().clone()
    step = weight.abs().amax(1, keepdim=True) / 127 * (1 + 2**-16)
    assert ((once - weight).abs() <= step / 2 * (1 + 2**-20)).all()
    assert not torch.equal(once, weight)
    FORMS["int8"].weights(module)
    assert torch.equal(module.weight, once), "what was rounded once stays as it is"


def test_weights_behind_a_parametrization_stay_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = parametrizations.weight_norm(nn.LSTM(30, 40), "weight_hh_l0")
    report = export(module, torch.zeros(5, 3, 30), name="m", out=tmp_path, form="int8")
    shapes = {
        (tuple(tensor.dims), tensor.data_type)
        for tensor in onnx.load(report.path / "model.onnx").graph.initializer
        if len(tensor.dims) == 3
    }
    assert ((1, 160, 30), onnx.TensorProto.INT8) in shapes
    assert ((1, 160, 40), onnx.TensorProto.FLOAT) in shapes


def test_eight_bit_row_is_bit_for_bit_the_same_alone_and_among_64(tmp_path: Path) -> None:
    torch.manual_seed(0)
    alone_or_among = session(export(nn.LSTM(20, 48, 2), torch.zeros(5, 3, 20), name="m", out=tmp_path, form="int8"))
    random = np.random.default_rng(0)
    x, h, c = (random.standard_normal(s).astype(np.float32) for s in ((4, 64, 20), (2, 64, 48), (2, 64, 48)))
    among = alone_or_among.run(None, {"x": x, "h_0": h, "c_0": c})
    for row in range(0, 64, 9):
        alone = alone_or_among.run(None, {"x": x[:, [row]], "h_0": h[:, [row]], "c_0": c[:, [row]]})
        assert all(np.array_equal(a, b[:, [row]]) for a, b in zip(alone, among, strict=True))


def test_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
    module = nn.LSTM(3, 6)
    module.get_parameter("weight_ih_l0").data[0, 0] = 1e6
    with pytest.raises(ModuleRefusedError, match="'weight_ih_l0' does not fit float16: its largest magnitude is 1e"):
        export(module, X, name="m", out=tmp_path, form="float16")


def test_unknown_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="form is 'int4', expected one of float32, float16, int8"):
        export(nn.LSTM(3, 6), X, name="m", out=tmp_path, form="int4")
