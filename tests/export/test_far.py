"""What a module does only far from the example: to its neighbours, to earlier steps, at other sizes, to whole-number states."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from statecell_export import ExampleError, GraphRefusedError, ModuleRefusedError, VerificationError, adopt, export
from torch import Tensor, nn

LINES = "x:float32[batch,seq_len,4]"


class Net(nn.Module):
    """A GRU behind something that does nothing to inputs like the example's."""

    def __init__(self, before: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gru, self.before = nn.GRU(4, 6, batch_first=True), before

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gru(self.before(x))[0]
        return y


def limited(x: Tensor) -> Tensor:
    return x / x.abs().max().clamp(min=2000.0)


def muted(x: Tensor) -> Tensor:
    return x * (x.abs() < 1e5).all()


def silent(x: Tensor) -> Tensor:
    return torch.where((x.abs() < 1e-4).all(), torch.ones_like(x), x)


@pytest.mark.parametrize("before", [limited, muted, silent])
def test_rows_that_mix_far_from_the_example_are_refused(before: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    with pytest.raises(ModuleRefusedError, match=r"mixes the rows of a batch.*write 1 in place of batch"):
        export(Net(before), LINES, name="m", out=tmp_path)


def test_steps_that_hang_on_far_larger_later_ones_cannot_be_stepped(tmp_path: Path) -> None:
    report = export(Net(lambda x: x / x.abs().amax(1, keepdim=True).clamp(min=5000.0)), LINES, name="m", out=tmp_path)
    assert not report.spec.streamable
    assert "looks across time steps" in report.spec.reason


def test_what_any_row_may_be_is_exported(tmp_path: Path) -> None:
    for before in (lambda x: x.clamp(-2000, 2000), lambda x: x / x.norm(dim=-1, keepdim=True)):
        assert export(Net(before), LINES, name="m", out=tmp_path).spec.streamable


class Long(Net):
    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[1]
        return super().forward(x) * (2.0 if steps - 1 >= 70 else 1.0)


class Wide(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * max(1, x.size(0) // 20))


class Counted(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if len(x) < 40 else -x)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Long, r"at seq_len 71 and batch 1, where forward decides by a size \(test_far.py:\d+: .*steps - 1 >= 70"),
        (Wide, r"at seq_len 2 and batch 40, where forward decides by a size \(test_far.py:\d+: .*x.size\(0\) // 20"),
        (Counted, r"at seq_len 2 and batch 129, where forward decides by a size \(test_far.py:\d+: .*len\(x\) < 40"),
    ],
)
def test_what_is_decided_by_a_size_is_refused_with_the_line(kind: type[Net], message: str, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=message):
        export(kind(lambda x: x), LINES, name="m", out=tmp_path)


class Checked(Net):
    def forward(self, x: Tensor) -> Tensor:
        if x.size(1) > 500:
            raise ValueError("too long")
        if x.size(0) > 50:
            x = x.contiguous()
        return super().forward(x)


def test_a_size_by_which_nothing_else_is_computed_is_no_matter(tmp_path: Path) -> None:
    assert export(Checked(lambda x: x), LINES, name="m", out=tmp_path).spec.streamable


class Speller(nn.Module):
    """Feeds its own choice back."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell, self.head = nn.Embedding(9, 4), nn.GRUCell(7, 5), nn.Linear(5, 9)

    def forward(self, x: Tensor, token: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.cell(torch.cat([x, self.embed(token)], 1), h)
        scores = self.head(h)
        return scores, scores.argmax(1), h


class Named(Speller):
    def forward(self, x: Tensor, token: Tensor, h: Tensor) -> Any:
        scores, token, h = super().forward(x, token, h)
        return {"scores": scores, "next_token": token, "h": h}


SPELLER = ["x:float32[batch,3]", "token:int64[batch]", "h:float32[batch,5]"]


def test_a_whole_number_that_a_result_may_carry_on_is_asked_about(tmp_path: Path) -> None:
    with pytest.raises(ModuleRefusedError, match=r"states=\['token:1'\].*states=\['token:'\] for inputs that are no states"):
        export(Speller(), SPELLER, name="m", out=tmp_path)
    report = export(Speller(), SPELLER, name="m", out=tmp_path, states=["token:", "h:2"])
    assert [tensor.name for tensor in report.spec.inputs] == ["x", "token"]


@pytest.mark.parametrize(("kind", "states"), [(Speller, ["token:1", "h:2"]), (Named, [])])
def test_a_whole_number_that_is_carried_on_is_a_state(kind: type[Speller], states: list[str], tmp_path: Path) -> None:
    module = kind().eval()
    report = export(module, SPELLER, name="m", out=tmp_path, states=states)
    session = onnxruntime.InferenceSession(report.path / "model.onnx")
    assert [tensor.name for tensor in report.spec.inputs] == ["x"]
    assert [state.dtype for state in report.spec.states] == ["int64", "float32"]
    ours = {state.input: state.fresh(3) for state in report.spec.states}
    token, h = torch.zeros(3, dtype=torch.int64), torch.zeros(3, 5)
    for _ in range(12):
        x = torch.randn(3, 3) * 5
        with torch.no_grad():
            scores, token, h = Speller.forward(module, x, token, h)
        names = [report.spec.outputs[0].name, *(state.output for state in report.spec.states)]
        got = session.run(names, {"x": x.numpy(), **ours})
        ours = dict(zip(ours, got[1:], strict=True))
        np.testing.assert_allclose(got[0], scores, atol=1e-5)


def stranger(path: Path, nodes: list[onnx.NodeProto], inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]) -> Path:
    generator = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(generator.normal(size=(3, 5)).astype(np.float32), "w"),
        *(
            numpy_helper.from_array(np.array(number, np.float32), name)
            for name, number in {"half": 0.5, "most": 4000.0}.items()
        ),
    ]
    before, after = ([helper.make_tensor_value_info(n, TensorProto.FLOAT, d) for n, d in e.items()] for e in (inputs, outputs))
    graph = helper.make_graph(nodes, "graph", before, after, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_states_counted_from_nought_and_their_outputs_from_one_are_asked_about(tmp_path: Path) -> None:
    row = ["batch", 5]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["driven"]),
        *(helper.make_node("Mul", [f"s{n}", "half"], [f"kept{n}"]) for n in (0, 1)),
        helper.make_node("Add", ["kept0", "driven"], ["s1_out"]),
        helper.make_node("Add", ["kept1", "s1_out"], ["s2_out"]),
        helper.make_node("Tanh", ["s2_out"], ["y"]),
    ]
    path = stranger(
        tmp_path / "counted.onnx", nodes, {"x": ["batch", 3], "s0": row, "s1": row}, {"y": row, "s1_out": row, "s2_out": row}
    )
    with pytest.raises(GraphRefusedError, match=r"named after 's1', but is computed from s0 and x.*--state s0:s1_out"):
        adopt(path, name="m", out=tmp_path)
    spec = adopt(path, name="m", out=tmp_path, states={"s0": "s1_out", "s1": "s2_out"}).spec
    assert [(state.input, state.output) for state in spec.states] == [("s0", "s1_out"), ("s1", "s2_out")]


def test_rows_of_a_file_that_mix_far_from_usual_numbers_are_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceL1", ["x"], ["loud"], keepdims=0),
        helper.make_node("Max", ["loud", "most"], ["by"]),
        helper.make_node("Div", ["x", "by"], ["level"]),
        helper.make_node("MatMul", ["level", "w"], ["driven"]),
        helper.make_node("Mul", ["most", "driven"], ["strong"]),
        helper.make_node("Mul", ["h", "half"], ["kept"]),
        helper.make_node("Add", ["kept", "strong"], ["hn"]),
        helper.make_node("Tanh", ["hn"], ["y"]),
    ]
    row = ["batch", 5]
    path = stranger(tmp_path / "loud.onnx", nodes, {"x": ["batch", 3], "h": row}, {"y": row, "hn": row})
    with pytest.raises(GraphRefusedError, match="the numbers in the rows beside it are far larger"):
        adopt(path, name="m", out=tmp_path)


class Slow(nn.Module):
    """Two states, and an output of their shape; the states come back in a nest of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Linear(3, 5)

    def forward(self, x: Tensor, fast: Tensor, slow: Tensor) -> tuple[Tensor, list[Tensor]]:
        first = torch.tanh(self.w(x) + 0.5 * fast)
        second = 0.9 * slow + 0.1 * first
        return first - second, [first * 2, second]


SLOW = ["x:float32[batch,3]", "fast:float32[batch,5]", "slow:float32[batch,5]"]


def test_a_result_that_is_given_by_its_number_is_no_end_of_a_name(tmp_path: Path) -> None:
    module = Slow().eval()
    report = export(module, SLOW, name="m", out=tmp_path, states=["fast:1", "slow:2"])
    session = onnxruntime.InferenceSession(report.path / "model.onnx")
    state, ours = [torch.zeros(2, 5)] * 2, {s.input: s.fresh(2) for s in report.spec.states}
    for _ in range(5):
        x = torch.randn(2, 3)
        with torch.no_grad():
            y, state = module(x, *state)
        got = session.run([report.spec.outputs[0].name, *(s.output for s in report.spec.states)], {"x": x.numpy(), **ours})
        ours = dict(zip(ours, got[1:], strict=True))
        np.testing.assert_allclose(got[0], y, atol=1e-5)


def test_two_states_that_are_said_to_be_one_result_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExampleError, match=r"'slow:1' and the one of 'fast' name the same result, 1 \(1.0\)"):
        export(Slow(), SLOW, name="m", out=tmp_path, states=["fast:1", "slow:1"])
