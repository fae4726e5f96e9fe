"""ONNX files from anywhere get a spec and their states, or one message that says why not."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from statecell.spec import ModelSpec, StateSpec, TensorSpec
from statecell_export import GraphRefusedError, adopt
from statecell_export.artifacts import read_spec
from statecell_export.quiet import quiet

from tests.export import strangers
from tests.export.strangers import HIDDEN, INPUT, tensor
from tests.export.zoo import OwnZeros


def adopted(path: Path, **options: object) -> ModelSpec:
    """The spec in the file that adopting `path` made."""
    adopt(path, name="stranger", out=path.parent / "models", **options)  # type: ignore[arg-type]
    return read_spec(path.parent / "models" / "stranger" / "1" / "model.onnx")


@pytest.mark.parametrize("zeros", [False, True], ids=["absent", "zeros made inside"])
@pytest.mark.parametrize(("kind", "names"), [("LSTM", ["h_0", "c_0"]), ("GRU", ["h_0"]), ("RNN", ["h_0"])])
def test_initial_state_inside_is_lifted_out(tmp_path: Path, kind: str, names: list[str], zeros: bool) -> None:
    spec = adopted(strangers.hidden_state(tmp_path / "a.onnx", kind, zeros=zeros))
    assert spec.streamable
    assert [state.input for state in spec.states] == names
    assert all(state.shape == (1, "batch", HIDDEN) for state in spec.states)
    assert spec.inputs == (TensorSpec("x", "float32", ("seq_len", "batch", 4)),)
    assert spec.min_batch == (2 if kind == "RNN" else 1)


def test_file_from_the_tracing_exporter_is_lifted_layer_by_layer(tmp_path: Path) -> None:
    path = tmp_path / "traced.onnx"
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            OwnZeros().eval(),
            (torch.randn(2, 5, 3),),
            str(path),
            dynamo=False,
            input_names=["x"],
            output_names=["out"],
            dynamic_axes={"x": {0: "batch", 1: "time"}, "out": {0: "batch", 1: "time"}},
        )
    spec = adopted(path)
    assert spec.streamable
    assert [state.input for state in spec.states] == ["layer0_h_0", "layer0_c_0", "layer1_h_0", "layer1_c_0"]
    assert spec.outputs == (TensorSpec("out", "float32", ("batch", "seq_len", 1)),)


@pytest.mark.parametrize(
    "names", [("h0", "c0", "hn", "cn"), ("hidden_in", "cell_in", "hidden_out", "cell_out"), ("h", "c", "h_next", "c_next")]
)
def test_states_in_the_signature_are_found_by_name_and_shape(tmp_path: Path, names: tuple[str, str, str, str]) -> None:
    spec = adopted(strangers.explicit(tmp_path / "a.onnx", names))
    assert [(state.input, state.output) for state in spec.states] == [(names[0], names[2]), (names[1], names[3])]
    assert spec.streamable


def test_states_with_strange_names_are_named_by_hand(tmp_path: Path) -> None:
    path = strangers.explicit(tmp_path / "a.onnx", ("apple", "pear", "plum", "cherry"))
    spec = adopted(path, states={"apple": "plum", "pear": "cherry"})
    assert [(state.input, state.output) for state in spec.states] == [("apple", "plum"), ("pear", "cherry")]


def test_no_time_axis_packed_state_scalar_rate_and_nodes_inside_if(tmp_path: Path) -> None:
    spec = adopted(strangers.vad(tmp_path / "vad.onnx"), example=["input:float32[batch,32]"], constants={"sr": "16000"})
    assert spec.inputs == (TensorSpec("input", "float32", ("batch", 32)),)
    assert spec.states == (StateSpec("state", "stateN", "float32", (2, "batch", HIDDEN)),)
    assert spec.streamable
    assert not spec.has_time


def test_scalar_input_may_stay_an_input(tmp_path: Path) -> None:
    spec = adopted(strangers.vad(tmp_path / "vad.onnx"), example=["input:float32[batch,32]"])
    assert spec.inputs[1] == TensorSpec("sr", "int64", ())


def test_fixed_batch_of_one_has_states_without_a_batch_axis(tmp_path: Path) -> None:
    spec = adopted(strangers.explicit(tmp_path / "a.onnx", batch=1))
    assert spec.states[0].shape == (1, 1, HIDDEN)
    assert not spec.has_batch


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: strangers.hidden_state(path, direction="bidirectional"), "is bidirectional"),
        (lambda path: strangers.hidden_state(path, direction="reverse"), "is reverse"),
        (lambda path: strangers.hidden_state(path, zeros=True, initial=0.5), "learned or computed state 'state'"),
        (strangers.with_convolution, "looks across time steps"),
    ],
    ids=["bidirectional", "reverse", "learned state", "convolution"],
)
def test_what_cannot_be_stepped_is_adopted_as_not_streamable(tmp_path: Path, make: object, reason: str) -> None:
    spec = adopted(make(tmp_path / "a.onnx"))  # type: ignore[operator]
    assert not spec.streamable
    assert reason in spec.reason


def unknown_operator(path: Path) -> Path:
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="elsewhere")
    graph = helper.make_graph([node], "g", [tensor("x", [1])], [tensor("y", [1])])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("elsewhere", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def stateless(path: Path) -> Path:
    return strangers.save(path, [helper.make_node("Tanh", ["x"], ["y"])], [tensor("x", ["B", 3])], [tensor("y", ["B", 3])], [])


def not_onnx(path: Path) -> Path:
    path.write_text("neither protobuf nor ONNX")
    return path


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (not_onnx, {}, "is not an ONNX file"),
        (lambda path: path, {}, "does not exist"),
        (unknown_operator, {}, "Frobnicate"),
        (stateless, {}, r"no LSTM, GRU or RNN node and no state"),
        (strangers.vad, {}, r"name them by --example"),
        (
            strangers.vad,
            {"constants": {"rate": "1"}},
            "constant 'rate' is no input of the model; its inputs are input, state, sr",
        ),
        (strangers.vad, {"constants": {"sr": "fast"}}, "constant sr=fast does not fit sr int64"),
        (strangers.explicit, {"states": {"h0": "y"}}, "state h0:y does not fit|the states do not fit|cannot tell"),
        (strangers.explicit, {"states": {"h0": "nothing"}}, "the model has no output 'nothing', it has y, hn, cn"),
        (strangers.explicit, {"example": ["z:float32[batch,2]"]}, "example 'z' is no input"),
    ],
)
def test_refusal_names_what_is_wrong_and_leaves_nothing(
    tmp_path: Path, make: object, options: dict[str, object], message: str
) -> None:
    path = make(tmp_path / "a.onnx")  # type: ignore[operator]
    with pytest.raises(GraphRefusedError, match=message):
        adopted(path, **options)
    assert not (tmp_path / "models").exists()


def test_adopted_model_steps_as_the_file_ran_whole(tmp_path: Path) -> None:
    import onnxruntime

    path = strangers.hidden_state(tmp_path / "a.onnx")
    adopted(path)
    x = np.random.default_rng(0).standard_normal((9, 2, 4)).astype(np.float32)
    (whole,) = onnxruntime.InferenceSession(path).run(None, {"x": x})
    session = onnxruntime.InferenceSession(tmp_path / "models" / "stranger" / "1" / "model.onnx")
    h = c = np.zeros((1, 2, HIDDEN), np.float32)
    steps = []
    for t in range(9):
        y, h, c = session.run(["y", "h_n", "c_n"], {"x": x[t : t + 1], "h_0": h, "c_0": c})
        steps.append(y)
    assert np.array_equal(np.concatenate(steps), whole)


def test_a_pattern_stands_for_several_states(tmp_path: Path) -> None:
    path = strangers.explicit(tmp_path / "m.onnx", ("cached_h", "cached_c", "fresh_h", "fresh_c"))
    report = adopt(path, name="m", out=tmp_path / "models", states={"cached_*": "fresh_*"})
    assert [(s.input, s.output) for s in report.spec.states] == [("cached_h", "fresh_h"), ("cached_c", "fresh_c")]


T, ROWS = "time", "rows"


def recurrent_then(path: Path, nodes: list[onnx.NodeProto], constants: list[TensorProto], *, first: bool = False) -> Path:
    """x -> LSTM -> h -> `nodes` -> y; or x -> `nodes` -> h -> LSTM -> y. Both [time, rows, HIDDEN or INPUT]."""
    source, target = ("h", "y") if first else ("x", "h")
    lstm = [
        helper.make_node("LSTM", [source, "w", "r", "b"], ["wide"], hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["wide", "one"], [target]),
    ]
    given = [*strangers.weights(inputs=INPUT), strangers.array("one", [1]), *constants]
    out: strangers.Dims = [T, ROWS, HIDDEN]
    return strangers.save(
        path, [*nodes, *lstm] if first else [*lstm, *nodes], [tensor("x", [T, ROWS, INPUT])], [tensor("y", out)], given
    )


def clipped_by_the_loudest(path: Path) -> Path:
    """h over the largest of the sequence, where that is beyond 50: never, for the numbers that files are tried with."""
    nodes = [
        helper.make_node("Abs", ["x"], ["size"]),
        helper.make_node("ReduceMax", ["size"], ["most"], axes=[0, 2], keepdims=1),
        helper.make_node("Max", ["most", "fifty"], ["scale"]),
        helper.make_node("Div", ["h", "scale"], ["y"]),
    ]
    return recurrent_then(path, nodes, [strangers.array("fifty", 50.0, "float32")])


def the_last_500_steps_added(path: Path) -> Path:
    """x and 0 times those of the last 500 steps: the whole sequence, as long as it is no longer than that."""
    nodes = [
        helper.make_node("Slice", ["x", "from", "to", "axis"], ["late"]),
        helper.make_node("ReduceSum", ["late", "axis"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "nothing"], ["none"]),
        helper.make_node("Add", ["x", "none"], ["h"]),
    ]
    constants = [strangers.array("from", [-500]), strangers.array("to", [1 << 62]), strangers.array("axis", [0])]
    return recurrent_then(path, nodes, [*constants, strangers.array("nothing", 0.0, "float32")], first=True)


def attention(path: Path) -> Path:
    """h mixed by how much its steps are alike, so sharply that each step is most like itself."""
    nodes = [
        helper.make_node("Transpose", ["h"], ["q"], perm=[1, 0, 2]),
        helper.make_node("Transpose", ["h"], ["k"], perm=[1, 2, 0]),
        helper.make_node("MatMul", ["q", "k"], ["alike"]),
        helper.make_node("Softmax", ["alike"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "q"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["y"], perm=[1, 0, 2]),
    ]
    return recurrent_then(path, nodes, [])


def loud_steps_are_subtracted(path: Path) -> Path:
    """By way of sizes that no inference follows: h - the largest x beyond 100, of any step, found by loud steps alone."""
    nodes = [
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("Mul", ["size", "one"], ["same"]),
        helper.make_node("Reshape", ["x", "same"], ["again"]),
        helper.make_node("Sub", ["again", "hundred"], ["beyond"]),
        helper.make_node("Relu", ["beyond"], ["loud"]),
        helper.make_node("ReduceMax", ["loud"], ["most"], axes=[0, 2], keepdims=1),
        helper.make_node("Sub", ["h", "most"], ["y"]),
    ]
    constants = [strangers.array("hundred", 100.0, "float32")]
    return recurrent_then(path, nodes, constants)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (clipped_by_the_loudest, "(ReduceMax) puts all time steps together"),
        (the_last_500_steps_added, "(Slice) takes some of the time steps"),
        (attention, "(MatMul) sums over the time steps"),
        (loud_steps_are_subtracted, "at a step by the size of the numbers after it"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_looks_across_time_steps_is_not_streamable_though_no_usual_number_shows_it(
    tmp_path: Path, make: Callable[[Path], Path], reason: str
) -> None:
    spec = adopted(make(tmp_path / "a.onnx"))
    assert not spec.streamable
    assert reason in spec.reason


def test_what_stays_within_a_step_is_streamable(tmp_path: Path) -> None:
    """Sums, norms and slices along other axes than seq_len; and states that are cut out of the last steps."""
    nodes = [
        helper.make_node("Softmax", ["h"], ["s"], axis=-1),
        helper.make_node("ReduceMean", ["s"], ["mean"], axes=[2], keepdims=1),
        helper.make_node("Slice", ["s", "from", "to", "last"], ["part"]),
        helper.make_node("ReduceSum", ["part", "last"], ["sum"], keepdims=1),
        helper.make_node("Transpose", ["s"], ["turned"], perm=[1, 2, 0]),
        helper.make_node("ReduceMax", ["turned"], ["best"], axes=[1], keepdims=1),
        helper.make_node("Transpose", ["best"], ["back"], perm=[2, 0, 1]),
        helper.make_node("Sum", ["s", "mean", "sum", "back"], ["y"]),
    ]
    constants = [strangers.array("from", [1]), strangers.array("to", [3]), strangers.array("last", [2])]
    assert adopted(recurrent_then(tmp_path / "a.onnx", nodes, constants)).streamable
