"""Files that are no good models, each in its own way, of a model `y = x + h`, `h_n = y`."""

import json
from collections.abc import Mapping
from typing import Any

import onnx
from onnx import TensorProto, helper

AXES: list[str | int | None] = ["batch", 4]


def spec(**changed: Any) -> str:
    """As the artifact carries it."""
    tensor = {"dtype": "float32", "shape": ["batch", "4"]}
    fields = {
        "name": "sum",
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "y", **tensor}],
        "states": [{"input": "h", "output": "h_n", **tensor}],
        "streamable": True,
    }
    return json.dumps({**fields, **changed})


def model(
    nodes: "list[onnx.NodeProto] | None" = None,
    carried: str | None = None,
    initializers: "list[onnx.TensorProto] | None" = None,
) -> bytes:
    """A file whose nodes make y of x and h; its h_n is y where the nodes make none."""
    nodes = nodes or [helper.make_node("Add", ["x", "h"], ["y"])]
    if not any("h_n" in node.output for node in nodes):
        nodes = [*nodes, helper.make_node("Identity", ["y"], ["h_n"])]
    graph = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, AXES) for name in ("x", "h")],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, AXES),
            helper.make_tensor_value_info("h_n", TensorProto.FLOAT, AXES),
        ],
        initializers or [],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    entry = proto.metadata_props.add()
    entry.key, entry.value = "statecell.spec", carried or spec()
    return bytes(proto.SerializeToString())


def ints(name: str, values: list[int]) -> onnx.TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def aborting() -> bytes:
    """Its LSTM is given no rows: ONNX Runtime ends the process."""
    weights = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, [0.1] * (shape[0] * shape[1] * shape[2]))
        for name, shape in (("W", [1, 16, 4]), ("R", [1, 16, 4]))
    ]
    nodes = [
        helper.make_node("Slice", ["x", "none", "none", "first"], ["nobody"]),
        helper.make_node("Unsqueeze", ["nobody", "first"], ["row"]),
        helper.make_node("LSTM", ["row", "W", "R"], ["", "last"], hidden_size=4),
        helper.make_node("ReduceSum", ["last"], ["total"], keepdims=0),
        helper.make_node("Add", ["x", "total"], ["x1"]),
        helper.make_node("Add", ["x1", "h"], ["y"]),
    ]
    return model(nodes, initializers=[*weights, ints("none", [0]), ints("first", [0])])


def greedy() -> bytes:
    """A run takes 64 GiB for a result in between."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Expand", ["most", "huge"], ["wide"]),
        helper.make_node("ReduceSum", ["wide"], ["total"], keepdims=0),
        helper.make_node("Add", ["h", "total"], ["y"]),
    ]
    return model(nodes, initializers=[ints("huge", [1 << 17, 1 << 17])])


def endless() -> bytes:
    """A run takes hours."""
    inside = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Tanh", ["v"], ["w"])],
        "inside",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("Constant", [], ["n"], value=helper.make_tensor("n", TensorProto.INT64, [], [1 << 40])),
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("yes", TensorProto.BOOL, [], [True])),
        helper.make_node("Loop", ["n", "yes", "x"], ["looped"], body=inside),
        helper.make_node("Add", ["looped", "h"], ["y"]),
    ]
    return model(nodes)


def outside(location: str) -> bytes:
    """Its weights are in another file."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    nodes = [helper.make_node("Add", ["x", "w"], ["xw"]), helper.make_node("Add", ["xw", "h"], ["y"])]
    return model(nodes, initializers=[weight])


def files() -> Mapping[str, tuple[bytes, str]]:
    """By the model's name: the file, and what is said of it."""
    good = model()

    def y(dtype: str, *shape: str) -> bytes:
        return model(carried=spec(outputs=[{"name": "y", "dtype": dtype, "shape": shape}]))

    def x(name: str, *shape: str) -> bytes:
        return model(carried=spec(inputs=[{"name": name, "dtype": "float32", "shape": shape}]))

    twice = [
        helper.make_node("Add", ["x", "h"], ["h_n"]),
        helper.make_node("Concat", ["h_n", "h_n"], ["y"], axis=0),
    ]
    return {
        "cut": (good[: len(good) * 2 // 3], "cannot be loaded"),
        "noise": (bytes(range(256)) * 9, "cannot be loaded"),
        "void": (b"", "cannot be loaded"),
        "unknown": (model([helper.make_node("Transmogrify", ["x", "h"], ["y"])]), "cannot be loaded"),
        "deep": (model(carried='{"a":' * 30_000), "spec is not JSON"),
        "surrogate": (model(carried=spec(name="\udce4")), "not Unicode text"),
        "terabytes": (y("float32", "batch", str(1 << 36)), "bytes a row and time step, the most is"),
        "dtype": (y("int64", "batch", "4"), "its spec says int64"),
        "size": (y("float32", "batch", "6"), "its spec says ['batch', 6]"),
        "rank": (x("x", "4"), "its spec says [4]"),
        "names": (x("z", "batch", "4"), "its spec says ['z', 'h']"),
        "rows": (model(carried=spec(min_batch=10**9)), "min_batch 1000000000"),
        "aside": (outside("weights.bin"), "weights beside the model's file are not taken"),
        "escape": (outside("../../../../../../../../etc/hostname"), "cannot be loaded"),
        "lies": (model(twice), "cannot be run"),
    }
