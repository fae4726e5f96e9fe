"""Adopted files whose structure is in their data flow alone, and random recurrent graphs."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from statecell_export import GraphRefusedError, adopt
from statecell_export.adopting.states import followed_pairs

HIDDEN, WIDTH = 5, 3
ROOMS = {"LSTM": 4, "GRU": 3, "RNN": 1}


def weights(kind: str, width: int, mark: str, generator: np.random.Generator) -> list[onnx.TensorProto]:
    gates = ROOMS[kind]
    shapes = {"w": (1, gates * HIDDEN, width), "r": (1, gates * HIDDEN, HIDDEN), "b": (1, 2 * gates * HIDDEN)}
    return [numpy_helper.from_array(generator.normal(size=s).astype(np.float32) / 2, n + mark) for n, s in shapes.items()]


def value(name: str, *dims: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)


def saved(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[onnx.TensorProto],
) -> Path:
    one = numpy_helper.from_array(np.array([1], np.int64), "one")
    graph = helper.make_graph(nodes, "graph", inputs, outputs, [*constants, one])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def random_graph(path: Path, seed: int) -> Path:
    """One to three layers, each with its state hidden, in the signature (outputs crossed and renamed), or learned."""
    generator = np.random.default_rng(seed)
    nodes, inputs, outputs, constants = [], [value("x", "time", "batch", WIDTH)], [], []
    before, width = "x", WIDTH
    for layer in range(generator.integers(1, 4)):
        kind = generator.choice(list(ROOMS))
        how = generator.choice(["hidden", "signature", "learned", "asked"], p=[0.4, 0.4, 0.1, 0.1])
        constants += weights(kind, width, str(layer), generator)
        given = ["", ""][: 2 if kind == "LSTM" else 1]
        last = [f"last{layer}_{place}" for place, _ in enumerate(given)]
        if how == "signature":
            given = [f"p{seed}_{layer}_{place}" for place, _ in enumerate(given)]
            inputs += [value(name, 1, "batch", HIDDEN) for name in given]
            for place, name in enumerate(last):
                nodes_after = f"q{9 - layer}_{1 - place}"
                outputs.append((nodes_after, name))
        elif how == "learned":
            given = [f"learned{layer}"] * len(given)
            constants.append(numpy_helper.from_array(generator.normal(size=(1, 1, HIDDEN)).astype(np.float32), f"small{layer}"))
            nodes += [
                helper.make_node("Shape", ["x"], [f"rows{layer}"], start=1, end=2),
                helper.make_node("Concat", ["one", f"rows{layer}", "one"], [f"shape{layer}"], axis=0),
                helper.make_node("Expand", [f"small{layer}", f"shape{layer}"], [given[0]]),
            ]
        elif how == "asked":  # from another input, which no output carries on
            given = [f"asked{layer}"] * len(given)
            inputs.append(value(given[0], 1, "batch", HIDDEN))
        tail = []
        if kind == "LSTM" and generator.random() < 0.5:
            constants.append(numpy_helper.from_array(generator.normal(size=(1, 3 * HIDDEN)).astype(np.float32), f"peep{layer}"))
            tail = [f"peep{layer}"]
        more: dict[str, Any] = {"linear_before_reset": 1} if kind == "GRU" else {}
        feeds = [before, f"w{layer}", f"r{layer}", f"b{layer}", "", *given, *tail]
        nodes.append(helper.make_node(kind, feeds, [f"y{layer}", *last], name=f"node{layer}", hidden_size=HIDDEN, **more))
        nodes.append(helper.make_node("Squeeze", [f"y{layer}", "one"], [f"z{layer}"]))
        before, width = f"z{layer}", HIDDEN
    for after, name in outputs:
        nodes.append(helper.make_node("Identity", [name], [after]))
    nodes.append(helper.make_node("Identity", [before], ["out"]))
    generator.shuffle(outputs)
    declared = [value("out", "time", "batch", HIDDEN), *(value(after, 1, "batch", HIDDEN) for after, _ in outputs)]
    return saved(path, nodes, inputs, declared, constants)


def run(path: Path, feed: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))


@pytest.mark.parametrize("seed", range(40))
def test_random_recurrent_graphs_step_as_the_original_runs_whole_or_are_not_streamable(tmp_path: Path, seed: int) -> None:
    path = random_graph(tmp_path / "graph.onnx", seed)
    try:
        report = adopt(path, name="graph", out=tmp_path / "models")
    except GraphRefusedError as error:
        refused = str(error)
        if "--" not in refused and "export" not in refused:  # it says what to do
            raise
        return
    if not report.spec.streamable:
        assert report.spec.reason
        return
    x = np.random.default_rng(seed + 1).normal(size=(6, 1, WIDTH)).astype(np.float32)
    states = {state.input: state.fresh(1) for state in report.spec.states}
    takes = {i.name for i in onnx.load(path).graph.input}
    asked = {t.name: np.full((1, 1, HIDDEN), 0.5, np.float32) for t in report.spec.inputs if t.name != "x"}
    whole = run(path, {"x": x} | asked | {name: array for name, array in states.items() if name in takes})["out"]
    steps = []
    for step in x:
        got = run(report.path / "model.onnx", {"x": step[None]} | asked | states)
        states = {state.input: got[state.output] for state in report.spec.states}
        steps.append(got["out"])
    np.testing.assert_allclose(np.concatenate(steps), whole, atol=1e-5)


def test_crossed_output_names_do_not_cross_the_states(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    node = helper.make_node("LSTM", ["x", "w", "r", "b", "", "a", "z"], ["y", "z_next", "a_next"], hidden_size=HIDDEN)
    states = [value("a", 1, "batch", HIDDEN), value("z", 1, "batch", HIDDEN)]
    outputs = [value(name, 1, "batch", HIDDEN) for name in ("a_next", "z_next")]
    path = saved(
        tmp_path / "crossed.onnx",
        [node],
        [value("x", "time", "batch", WIDTH), *states],
        outputs,
        weights("LSTM", WIDTH, "", generator),
    )
    assert followed_pairs(onnx.load(path)) == {"a": "z_next", "z": "a_next"}


def test_two_outputs_that_hold_one_state_are_refused_with_the_line_that_decides(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    nodes = [
        helper.make_node("GRU", ["x", "w", "r", "b", "", "before"], ["y", "last"], hidden_size=HIDDEN),
        *(helper.make_node("Identity", ["last"], [name]) for name in ("left", "right")),
    ]
    inputs = [value("x", "time", "batch", WIDTH), value("before", 1, "batch", HIDDEN)]
    outputs = [value(name, 1, "batch", HIDDEN) for name in ("left", "right")]
    path = saved(tmp_path / "two.onnx", nodes, inputs, outputs, weights("GRU", WIDTH, "", generator))
    with pytest.raises(GraphRefusedError, match="--state before:left or --state before:right"):
        adopt(path, name="two", out=tmp_path / "models")


def test_rows_that_are_compared_with_their_batch_are_refused(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("GRU", ["centred", "w", "r", "b"], ["y"], hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["y", "one"], ["out"]),
    ]
    path = saved(
        tmp_path / "rows.onnx",
        nodes,
        [value("x", "time", "batch", WIDTH)],
        [value("out", "time", "batch", HIDDEN)],
        weights("GRU", WIDTH, "", generator),
    )
    with pytest.raises(GraphRefusedError, match="rows of a batch change each other"):
        adopt(path, name="rows", out=tmp_path / "models")
