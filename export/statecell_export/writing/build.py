"""Recurrent modules as ONNX nodes, built from their weights rather than from a trace.

The fused nodes and their equations: https://onnx.ai/onnx/operators/onnx__LSTM.html, …__GRU.html, …__RNN.html.
PyTorch stacks an LSTM's gates as i, f, g, o and a GRU's as r, z, n; ONNX wants i, o, f, c and z, r, h.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper
from statecell.spec import ModelSpec

from statecell_export.reading.recurrent import Array, Cell, Recurrent, activation, kind, layers
from statecell_export.writing.graph import Graph, next_state, to_model
from statecell_export.writing.scan import Layer, scan

_GATE_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


def direct(module: Recurrent, spec: ModelSpec) -> onnx.ModelProto:
    """A bare recurrent module as a model."""
    graph = Graph()
    states = [state.input for state in spec.states]
    batched = len(spec.inputs[0].shape) == (2 if isinstance(module, Cell) else 3)
    y, after = build(graph, module, spec.inputs[0].name, states, batched=batched)
    for source, tensor in zip((y, *after), (*spec.outputs, *map(next_state, spec.states)), strict=True):
        graph.add_many("Identity", [source], [tensor.name])
    return to_model(helper.make_graph(graph.nodes, spec.name, [], [], graph.initializers), spec)


def build(
    graph: Graph, module: Recurrent, x: str, states: Sequence[str], *, lengths: str = "", batched: bool = True
) -> tuple[str, list[str]]:
    """Append the nodes of `module` in eval mode to `graph`; the names of y and of the next states.

    x is [seq_len, batch, input_size], with batch_first [batch, seq_len, input_size], for a cell [batch, input_size];
    a state is [num_layers * num_directions, batch, size], for a cell [batch, size]. lengths: int32 [batch] of sequences that
    end sooner than seq_len; then x is always [seq_len, batch, input_size]. batched: False where x and the states have no
    batch axis.
    """
    if not batched:
        at = 0 if isinstance(module, Cell) or module.batch_first else 1
        axis, state_axis = graph.ints(at), graph.ints(0 if isinstance(module, Cell) else 1)
        x = graph.add("Unsqueeze", x, axis)
        states = [graph.add("Unsqueeze", state, state_axis) for state in states]
        y, after = build(graph, module, x, states)
        return graph.add("Squeeze", y, axis), [graph.add("Squeeze", state, state_axis) for state in after]
    if isinstance(module, Cell):
        axis = graph.ints(0)
        x = graph.add("Unsqueeze", x, axis)
        states = [graph.add("Unsqueeze", state, axis) for state in states]
        _, after = _fused(Layer(graph, module, layers(module)[0], x, states))
        after = [graph.add("Squeeze", state, axis) for state in after]
        return after[0], after

    batch_first = module.batch_first and not lengths
    if batch_first:
        x = graph.add("Transpose", x, perm=[1, 0, 2])
    stack = layers(module)
    before = [_split(graph, state, len(stack), len(stack[0])) for state in states]
    steps: list[list[str]] = []
    for number, directions in enumerate(stack):
        x, after = _fused(Layer(graph, module, directions, x, [state[number] for state in before], lengths))
        steps.append(after)
    after = [graph.add("Concat", *parts, axis=0) if len(stack) > 1 else parts[0] for parts in zip(*steps, strict=True)]
    return (graph.add("Transpose", x, perm=[1, 0, 2]) if batch_first else x), after


def _split(graph: Graph, state: str, num_layers: int, num_directions: int) -> list[str]:
    """[num_layers * num_directions, batch, size] -> num_layers of [num_directions, batch, size]."""
    if num_layers == 1:
        return [state]
    return graph.add_many("Split", [state, graph.ints(*[num_directions] * num_layers)], num_layers, axis=0)


def _fused(layer: Layer) -> tuple[str, list[str]]:
    """One layer as one node: y [seq_len, batch, directions * hidden] and states [directions, batch, hidden]."""
    graph, directions, operator = layer.graph, layer.directions, kind(layer.module)
    if directions[0].w_hr is not None:
        return scan(layer)
    count = len(directions)
    attributes = {"hidden_size": directions[0].r.shape[1], "direction": "bidirectional" if count == 2 else "forward"}
    if operator == "GRU":
        attributes["linear_before_reset"] = 1
    if operator == "RNN":
        attributes["activations"] = [activation(layer.module)] * count
    weights = [graph.constant(np.stack([_reorder(operator, getattr(d, n)) for d in directions]), n) for n in ("w", "r")]
    y, *after = graph.add_many(
        operator, [layer.x, *weights, _bias(layer), layer.lengths, *layer.states], 1 + len(layer.states), **attributes
    )  # y: [seq_len, num_directions, batch, hidden]
    if count == 1:
        return graph.add("Squeeze", y, graph.ints(1)), after
    return graph.add("Reshape", graph.add("Transpose", y, perm=[0, 2, 1, 3]), graph.ints(0, 0, -1)), after


def _reorder(operator: str, gates: Array) -> Array:
    order = _GATE_ORDER[operator]
    parts = np.split(gates, len(order))
    return np.concatenate([parts[gate] for gate in order])


def _bias(layer: Layer) -> str:
    """[num_directions, 2 * gates * hidden], or "" without."""
    halves = [[_reorder(kind(layer.module), b) for b in (d.b_ih, d.b_hh) if b is not None] for d in layer.directions]
    return layer.graph.constant(np.stack([np.concatenate(half) for half in halves]), "b") if halves[0] else ""
