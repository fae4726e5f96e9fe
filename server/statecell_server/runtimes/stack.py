"""Stack: the layers of a model that is an LSTM, GRU or RNN and nothing else, found by following its graph."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from statecell.spec import BATCH, SEQ_LEN, ModelSpec
from statecell.tensor import Array

from statecell_server.runtimes.onnx_graph import Graph, Node


class NotRecurrent(Exception):
    """The model has something else in it, or beside it; the message says what."""


@dataclass(frozen=True)
class Row:
    """A layer's part of a state: [batch, hidden_size] at `index` of the first axis of the spec's state number `state`."""

    state: int
    index: int


@dataclass(frozen=True)
class Layer:
    """One layer, with ONNX's weights and gates: https://onnx.ai/onnx/operators/onnx__LSTM.html

    w [gates * hidden_size, input_size], r [gates * hidden_size, hidden_size], b [2, gates * hidden_size], all float32; the
    gates are i, o, f, c of an LSTM, z, r, h of a GRU and one of an RNN.
    """

    cell: str  # LSTM, GRU or RNN
    w: Array
    r: Array
    b: Array
    h: Row
    c: Row | None
    relu: bool = False  # of an RNN; else tanh

    @property
    def hidden(self) -> int:
        return int(self.r.shape[1])


@dataclass(frozen=True)
class Stack:
    """Each layer's y is the x of the next."""

    layers: tuple[Layer, ...]
    batch_first: bool  # of the model's x and y


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STATES = {"LSTM": 2, "GRU": 1, "RNN": 1}
ACTIVATIONS = {"LSTM": [b"Sigmoid", b"Tanh", b"Tanh"], "GRU": [b"Sigmoid", b"Tanh"], "RNN": [b"Tanh"]}
"""ONNX's own, which are what is meant where none are named."""
SWAP = [1, 0, 2]


def read_stack(graph: Graph, spec: ModelSpec) -> Stack:
    """Raises NotRecurrent."""
    if len(spec.inputs) != 1 or len(spec.outputs) != 1:
        raise NotRecurrent(f"it has {len(spec.inputs)} inputs and {len(spec.outputs)} outputs")
    x, y = spec.inputs[0], spec.outputs[0]
    orders = [t.shape[:2] for t in (x, y)]
    batch_first = orders[0] == (BATCH, SEQ_LEN)
    if orders[0] != orders[1] or orders[0] not in {(BATCH, SEQ_LEN), (SEQ_LEN, BATCH)} or len(x.shape) != 3:
        raise NotRecurrent(f"its x is {list(x.shape)} and its y {list(y.shape)}")
    if any(t.dtype != "float32" for t in (x, y, *(s.tensor for s in spec.states))):
        raise NotRecurrent("it has another dtype than float32")
    if graph.opset < 13:
        raise NotRecurrent(f"it is of opset {graph.opset}")
    found = _Walk(graph, spec)
    value, nodes = found.unswapped(y.name, batch_first), list[Node]()
    while True:
        node = found.squeezed(value)
        nodes.insert(0, node)
        value = found.same(node.inputs[0])
        if found.unswapped(value, batch_first) == x.name:
            break
    layers = tuple(found.layer(node) for node in nodes)
    found.require_states(layers, nodes)
    sizes = [x.shape[2], *(layer.hidden for layer in layers)]
    wanted = [*(layer.w.shape[1] for layer in layers), y.shape[2]]
    if [int(n) for n in sizes] != [int(n) for n in wanted]:
        raise NotRecurrent("its layers are of sizes that do not fit together")
    for layer in layers:
        for row in filter(None, (layer.h, layer.c)):
            if int(spec.states[row.state].shape[2]) != layer.hidden:
                raise NotRecurrent("a layer is of another size than its state")
    return Stack(layers, batch_first)


class _Walk:
    """Steps from a value to what it was made of. Each raises NotRecurrent."""

    def __init__(self, graph: Graph, spec: ModelSpec) -> None:
        self._graph, self._spec = graph, spec
        self._known = {s.input: i for i, s in enumerate(spec.states)}

    def same(self, value: str) -> str:
        """The value that this one is, under another name."""
        while (node := self._graph.makers.get(value)) is not None and _is(node, "Identity"):
            value = node.inputs[0]
        return value

    def maker(self, value: str, *kinds: str) -> Node:
        """The node of one of these kinds whose first output is the value."""
        node = self._graph.makers.get(self.same(value))
        if node is None or not any(_is(node, kind) for kind in kinds):
            raise NotRecurrent(f"{node.op_type if node else 'an input'} stands where {' or '.join(kinds)} is expected")
        return node

    def constant(self, value: str) -> Array:
        value = self.same(value)
        node = self._graph.makers.get(value)
        array = node.attributes.get("value") if node is not None and _is(node, "Constant") else self._graph.constants.get(value)
        if not isinstance(array, np.ndarray):
            raise NotRecurrent("a weight is computed, or is neither float32 nor int64")
        return array

    def unswapped(self, value: str, batch_first: bool) -> str:
        """The value that this one is with its first two axes swapped, where batch is first; else this one."""
        value = self.same(value)
        if not batch_first:
            return value
        node = self._graph.makers.get(value)
        if node is None or not _is(node, "Transpose") or node.attributes.get("perm") != SWAP:
            return ""
        return self.same(node.inputs[0])

    def squeezed(self, value: str) -> Node:
        """The layer whose y, [seq_len, 1, batch, hidden_size], the value is without the axis of directions."""
        node = self.maker(value, "Squeeze")
        if len(node.inputs) != 2 or self.constant(node.inputs[1]).tolist() not in ([1], [-3]):
            raise NotRecurrent("a Squeeze takes away another axis than that of directions")
        made = self.maker(node.inputs[0], *GATES)
        if made.outputs[0] != self.same(node.inputs[0]):
            raise NotRecurrent("something goes on with a layer's last state")
        return made

    def layer(self, node: Node) -> Layer:
        kind, settings, inputs = node.op_type, node.attributes, [*node.inputs, *[""] * 8]
        plain = {"direction": b"forward", "layout": 0, "input_forget": 0}
        for name, value in settings.items():
            known = name in {"hidden_size", "activations", "linear_before_reset", "output_sequence"}
            if not known and plain.get(name) != value:
                raise NotRecurrent(f"a {kind} has {name}")
        activations = settings.get("activations", ACTIVATIONS[kind])
        relu = kind == "RNN" and activations == [b"Relu"]
        if activations != ACTIVATIONS[kind] and not relu:
            raise NotRecurrent(f"a {kind} has other activations")
        if kind == "GRU" and settings.get("linear_before_reset") != 1:
            raise NotRecurrent("a GRU resets before its product")
        if inputs[4] or any(inputs[5 + STATES[kind] :]):
            raise NotRecurrent(f"a {kind} has sequence_lens or peepholes")
        w, r = (self.constant(inputs[i]) for i in (1, 2))
        rows, hidden = GATES[kind] * int(r.shape[-1]), int(r.shape[-1])
        b = self.constant(inputs[3]) if inputs[3] else np.zeros((1, 2 * rows), np.float32)
        if r.shape != (1, rows, hidden) or w.shape[:2] != (1, rows) or b.shape != (1, 2 * rows):
            raise NotRecurrent(f"a {kind} has more than one direction")
        states = [self.row(inputs[5 + i]) for i in range(STATES[kind])]
        return Layer(kind, w[0], r[0], b.reshape(2, rows), states[0], states[1] if len(states) > 1 else None, relu)

    def row(self, value: str) -> Row:
        """Which part of which state the value is, as the model gets it."""
        value = self.same(value)
        if value in self._known:
            state = self._known[value]
            self._require_shape(state, 1)
            return Row(state, 0)
        node = self._graph.makers.get(value)
        if node is None or not _is(node, "Split") or node.attributes.get("axis", 0) != 0:
            raise NotRecurrent("a layer begins with something else than the model's state")
        source = self.same(node.inputs[0])
        if source not in self._known or node.attributes.get("split"):
            raise NotRecurrent("a layer begins with something else than the model's state")
        self._require_shape(self._known[source], len(node.outputs))
        if len(node.inputs) > 1 and node.inputs[1] and self.constant(node.inputs[1]).tolist() != [1] * len(node.outputs):
            raise NotRecurrent("a state is split into unequal parts")
        return Row(self._known[source], node.outputs.index(value))

    def _require_shape(self, state: int, layers: int) -> None:
        shape = self._spec.states[state].shape
        if len(shape) != 3 or str(shape[0]) != str(layers) or shape[1] != BATCH:
            raise NotRecurrent(f"a state is {list(shape)}")

    def require_states(self, layers: Sequence[Layer], nodes: Sequence[Node]) -> None:
        """Every part of every next state is the next one of the layer that has begun with it."""
        ends = {}
        for layer, node in zip(layers, nodes, strict=True):
            outputs = [*node.outputs, "", ""]
            ends[layer.h] = outputs[1]
            if layer.c is not None:
                ends[layer.c] = outputs[2]
        if len(ends) != sum(STATES[layer.cell] for layer in layers):
            raise NotRecurrent("two layers begin with one state")
        for i, state in enumerate(self._spec.states):
            value, size = self.same(state.output), int(state.shape[0])
            parts = [value]
            if size > 1:
                node = self.maker(value, "Concat")
                if node.attributes.get("axis") != 0 or len(node.inputs) != size:
                    raise NotRecurrent("a next state is joined in another way")
                parts = [self.same(name) for name in node.inputs]
            if any(not part or part != ends.get(Row(i, index)) for index, part in enumerate(parts)):
                raise NotRecurrent("a next state is not what its layer ends with")


def _is(node: Node, op_type: str) -> bool:
    return node.op_type == op_type and node.domain in {"", "ai.onnx"}
