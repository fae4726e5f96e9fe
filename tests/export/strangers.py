"""ONNX files as other people make them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
INPUT, HIDDEN = 4, 6

Dims = list[int | str | None]


def weights(kind: str = "LSTM", directions: int = 1, *, inputs: int = INPUT, prefix: str = "") -> list[TensorProto]:
    """W, R and B of a recurrent node, from a fixed seed."""
    generator = np.random.default_rng(0)
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    shapes = {
        "w": (directions, gates * HIDDEN, inputs),
        "r": (directions, gates * HIDDEN, HIDDEN),
        "b": (directions, 2 * gates * HIDDEN),
    }
    return [
        numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32) * 0.4, prefix + name)
        for name, shape in shapes.items()
    ]


def tensor(name: str, dims: Dims, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[TensorProto],
) -> Path:
    """A model of opset 17."""
    graph = helper.make_graph(nodes, "stranger", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def array(name: str, value: object, dtype: str = "int64") -> TensorProto:
    return numpy_helper.from_array(np.array(value, dtype), name)


def hidden_state(
    path: Path, kind: str = "LSTM", *, zeros: bool = False, initial: float = 0.0, direction: str = "forward"
) -> Path:
    """x -> y with one recurrent node whose initial state is absent, or made inside from the batch, as exporters do."""
    count = 2 if direction == "bidirectional" else 1
    nodes, states = [], []
    if zeros:
        nodes = [
            helper.make_node("Shape", ["x"], ["rows"], start=1, end=2),
            helper.make_node("Concat", ["directions", "rows", "size"], ["shape"], axis=0),
            helper.make_node("ConstantOfShape", ["shape"], ["state"], value=helper.make_tensor("v", FLOAT, [1], [initial])),
        ]
        states = ["state"] * (2 if kind == "LSTM" else 1)
    extra: dict[str, Any] = {"linear_before_reset": 1} if kind == "GRU" else {}
    nodes.append(
        helper.make_node(
            kind, ["x", "w", "r", "b", "", *states], ["all"], name="rnn", hidden_size=HIDDEN, direction=direction, **extra
        )
    )
    nodes.append(
        helper.make_node("Squeeze", ["all", "one"], ["y"]) if count == 1 else helper.make_node("Identity", ["all"], ["y"])
    )
    shape: Dims = ["time", "n", HIDDEN] if count == 1 else ["time", count, "n", HIDDEN]
    constants = [*weights(kind, count), array("one", [1]), array("directions", [count]), array("size", [HIDDEN])]
    return save(path, nodes, [tensor("x", ["time", "n", INPUT])], [tensor("y", shape)], constants)


def vad(path: Path) -> Path:
    """Like a voice detector: no time axis, a scalar rate that chooses a branch, one packed state, LSTM inside If."""

    def branch(name: str, scale: float) -> onnx.GraphProto:
        nodes = [
            helper.make_node("MatMul", ["input", "p"], [f"{name}/scaled"]),
            helper.make_node("Mul", [f"{name}/scaled", f"{name}/scale"], [f"{name}/features"]),
            helper.make_node("Unsqueeze", [f"{name}/features", "zero"], [f"{name}/x"]),
            helper.make_node("Split", ["state"], [f"{name}/h", f"{name}/c"], axis=0),
            helper.make_node(
                "LSTM",
                [f"{name}/x", "w", "r", "b", "", f"{name}/h", f"{name}/c"],
                ["", f"{name}/hn", f"{name}/cn"],
                hidden_size=HIDDEN,
            ),
            helper.make_node("Concat", [f"{name}/hn", f"{name}/cn"], [f"{name}/state"], axis=0),
            helper.make_node("Squeeze", [f"{name}/hn", "zero"], [f"{name}/h1"]),
            helper.make_node("MatMul", [f"{name}/h1", "head"], [f"{name}/logit"]),
            helper.make_node("Sigmoid", [f"{name}/logit"], [f"{name}/output"]),
        ]
        outputs = [tensor(f"{name}/output", [None, 1]), tensor(f"{name}/state", [2, None, HIDDEN])]
        return helper.make_graph(nodes, name, [], outputs, [array(f"{name}/scale", scale, "float32")])

    nodes = [
        helper.make_node("Equal", ["sr", "rate"], ["fast"]),
        helper.make_node(
            "If", ["fast"], ["output", "stateN"], name="which", then_branch=branch("then", 1.0), else_branch=branch("else", 0.5)
        ),
    ]
    generator = np.random.default_rng(1)
    constants = [
        *weights(),
        array("rate", 16000),
        array("zero", [0]),
        numpy_helper.from_array(generator.standard_normal((32, INPUT)).astype(np.float32) * 0.2, "p"),
        numpy_helper.from_array(generator.standard_normal((HIDDEN, 1)).astype(np.float32), "head"),
    ]
    inputs = [tensor("input", [None, None]), tensor("state", [2, None, HIDDEN]), tensor("sr", [], INT64)]
    return save(path, nodes, inputs, [tensor("output", [None, 1]), tensor("stateN", [2, None, HIDDEN])], constants)


def explicit(path: Path, names: tuple[str, str, str, str] = ("h0", "c0", "hn", "cn"), batch: int | str = "batch") -> Path:
    """x, h, c -> y, h', c' by a plain LSTM node."""
    h, c, h_n, c_n = names
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "b", "", h, c], ["all", h_n, c_n], hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["all", "one"], ["y"]),
    ]
    state: Dims = [1, batch, HIDDEN]
    inputs = [tensor("x", ["seq", batch, INPUT]), tensor(h, state), tensor(c, state)]
    outputs = [tensor("y", ["seq", batch, HIDDEN]), tensor(h_n, state), tensor(c_n, state)]
    return save(path, nodes, inputs, outputs, [*weights(), array("one", [1])])


def with_convolution(path: Path) -> Path:
    """A convolution over time before the LSTM: no chunk is right without its neighbours."""
    generator = np.random.default_rng(3)
    nodes = [
        helper.make_node("Transpose", ["x"], ["bct"], perm=[1, 2, 0]),
        helper.make_node("Conv", ["bct", "kernel"], ["conv"], pads=[1, 1]),
        helper.make_node("Transpose", ["conv"], ["tbc"], perm=[2, 0, 1]),
        helper.make_node("LSTM", ["tbc", "w", "r", "b"], ["all"], hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["all", "one"], ["y"]),
    ]
    kernel = numpy_helper.from_array(generator.standard_normal((INPUT, INPUT, 3)).astype(np.float32), "kernel")
    return save(
        path,
        nodes,
        [tensor("x", ["T", "B", INPUT])],
        [tensor("y", ["T", "B", HIDDEN])],
        [*weights(), array("one", [1]), kernel],
    )
