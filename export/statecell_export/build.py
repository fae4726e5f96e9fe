"""Recurrent modules as ONNX nodes, built from their weights rather than from a trace.

The fused nodes and their equations: https://onnx.ai/onnx/operators/onnx__LSTM.html, …__GRU.html, …__RNN.html.
PyTorch stacks an LSTM's gates as i, f, g, o and a GRU's as r, z, n; ONNX wants i, o, f, c and z, r, h.
"""

from collections.abc import Sequence

import numpy as np

from statecell_export.graph import Graph
from statecell_export.recurrent import Array, Cell, Direction, Recurrent, activation, kind, layers
from statecell_export.scan import scan

_GATE_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


def build(graph: Graph, module: Recurrent, x: str, states: Sequence[str], lengths: str = "") -> tuple[str, list[str]]:
    """Append the nodes of `module` in eval mode to `graph`; the names of y and of the next states.

    x is [seq_len, batch, input_size], with batch_first [batch, seq_len, input_size], for a cell [batch, input_size];
    a state is [num_layers * num_directions, batch, size], for a cell [batch, size]; lengths, where given, is int32 [batch].
    """
    if isinstance(module, Cell):
        axis = graph.ints(0)
        x = graph.add("Unsqueeze", x, axis)
        states = [graph.add("Unsqueeze", state, axis) for state in states]
        _, after = _layer(graph, module, layers(module)[0], x, states, lengths)
        after = [graph.add("Squeeze", state, axis) for state in after]
        return after[0], after

    if module.batch_first:
        x = graph.add("Transpose", x, perm=[1, 0, 2])
    stack = layers(module)
    before = [_split(graph, state, len(stack), len(stack[0])) for state in states]
    steps: list[list[str]] = []
    for number, directions in enumerate(stack):
        x, after = _layer(graph, module, directions, x, [state[number] for state in before], lengths)
        steps.append(after)
    after = [graph.add("Concat", *parts, axis=0) if len(stack) > 1 else parts[0] for parts in zip(*steps, strict=True)]
    return (graph.add("Transpose", x, perm=[1, 0, 2]) if module.batch_first else x), after


def _split(graph: Graph, state: str, num_layers: int, num_directions: int) -> list[str]:
    """[num_layers * num_directions, batch, size] -> num_layers of [num_directions, batch, size]."""
    if num_layers == 1:
        return [state]
    return graph.add_many("Split", [state, graph.ints(*[num_directions] * num_layers)], num_layers, axis=0)


def _layer(
    graph: Graph, module: Recurrent, directions: Sequence[Direction], x: str, states: Sequence[str], lengths: str
) -> tuple[str, list[str]]:
    """One layer: x [seq_len, batch, input] -> [seq_len, batch, num_directions * hidden], states [num_directions, batch, size]."""
    if directions[0].w_hr is not None:
        return scan(graph, module, directions, x, states, lengths)
    count = len(directions)
    weights = [graph.constant(_stack(module, [getattr(d, name) for d in directions]), name) for name in ("w", "r")]
    y, *after = graph.add_many(
        kind(module),
        [x, *weights, _bias(graph, module, directions), lengths, *states],
        1 + len(states),
        hidden_size=directions[0].hidden_size,
        direction="bidirectional" if count == 2 else "forward",
        **({"linear_before_reset": 1} if kind(module) == "GRU" else {}),
        **({"activations": [activation(module)] * count} if kind(module) == "RNN" else {}),
    )  # y: [seq_len, num_directions, batch, hidden]
    if count == 1:
        return graph.add("Squeeze", y, graph.ints(1)), after
    return graph.add("Reshape", graph.add("Transpose", y, perm=[0, 2, 1, 3]), graph.ints(0, 0, -1)), after


def _reorder(module: Recurrent, gates: Array) -> Array:
    order = _GATE_ORDER[kind(module)]
    parts = np.split(gates, len(order))
    return np.concatenate([parts[gate] for gate in order])


def _stack(module: Recurrent, weights: Sequence[Array]) -> Array:
    return np.stack([_reorder(module, w) for w in weights])


def _bias(graph: Graph, module: Recurrent, directions: Sequence[Direction]) -> str:
    """[num_directions, 2 * gates * hidden], or "" without."""
    if directions[0].b_ih is None:
        return ""
    halves = [np.concatenate([_reorder(module, b) for b in (d.b_ih, d.b_hh) if b is not None]) for d in directions]
    return graph.constant(np.stack(halves), "b")
