"""An ONNX graph under construction."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from statecell.spec import SPEC_KEY, ModelSpec, StateSpec, TensorSpec

OPSET = 17
IR_VERSION = 8


class Graph:
    """Nodes and constants with fresh names below `prefix`.

    >>> graph = Graph()
    >>> y = graph.add("Tanh", "x")
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._count = 0

    def name(self, hint: str) -> str:
        """A name that nothing else in the model has."""
        self._count += 1
        return f"{self.prefix}/{hint}_{self._count}"

    def constant(self, array: Any, hint: str = "constant") -> str:
        """`array` as an initializer; its name."""
        name = self.name(hint)
        self.initializers.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def ints(self, *values: int) -> str:
        """A 1-D int64 constant; its name."""
        return self.constant(np.array(values, np.int64), "ints")

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output; the output's name."""
        return self.add_many(op, inputs, 1, **attributes)[0]

    def add_many(self, op: str, inputs: Sequence[str], outputs: int | Sequence[str], **attributes: Any) -> list[str]:
        """Append a node; its outputs' names ("" where an output is left out)."""
        names = [self.name(op) for _ in range(outputs)] if isinstance(outputs, int) else list(outputs)
        self.nodes.append(helper.make_node(op, list(inputs), names, name=self.name(op), **attributes))
        return names


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") or attribute.graphs else ():
                yield from graphs(inner)


def renamed(graph: onnx.GraphProto, names: Mapping[str, str]) -> onnx.GraphProto:
    """`graph` with these values under other names, in place."""
    for inner in graphs(graph):
        for node in inner.node:
            for values in (node.input, node.output):
                values[:] = [names.get(value, value) for value in values]
        for value in (*inner.input, *inner.output):
            value.name = names.get(value.name, value.name)
    return graph


def value_info(tensor: TensorSpec) -> onnx.ValueInfoProto:
    """A graph input or output as its spec declares it."""
    return helper.make_tensor_value_info(tensor.name, helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)), tensor.shape)


def next_state(state: StateSpec) -> TensorSpec:
    """The state as the output tensor that carries it on."""
    return TensorSpec(state.output, state.dtype, state.shape)


def to_model(graph: onnx.GraphProto, spec: ModelSpec, opsets: Sequence[onnx.OperatorSetIdProto] = ()) -> onnx.ModelProto:
    """`graph` as a model whose signature and metadata are `spec`."""
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.extend(value_info(t) for t in (*spec.inputs, *(s.tensor for s in spec.states)))
    graph.output.extend(value_info(t) for t in (*spec.outputs, *map(next_state, spec.states)))
    model = helper.make_model(
        graph,
        opset_imports=list(opsets) or [helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="statecell",
    )
    helper.set_model_props(model, {SPEC_KEY: spec.to_json()})
    return model
