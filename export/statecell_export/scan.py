"""Recurrent modules as matrix products inside ONNX Scan: for what the fused nodes lack (projections, 8-bit weights).

Equations: https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html, …nn.GRU.html, …nn.RNN.html.
"""

from collections.abc import Sequence

import numpy as np
from onnx import helper

from statecell_export.graph import Graph
from statecell_export.recurrent import Array, Direction, Recurrent, activation, kind


def scan(
    graph: Graph, module: Recurrent, directions: Sequence[Direction], x: str, states: Sequence[str], lengths: str = ""
) -> tuple[str, list[str]]:
    """One layer: x [seq_len, batch, input] -> [seq_len, batch, num_directions * size], states [num_directions, batch, size]."""
    assert not lengths, "packed sequences through Scan are refused before"
    zero, outputs, after = graph.ints(0), [], []
    for number, weights in enumerate(directions):
        before = [
            graph.add("Gather", state, graph.constant(np.int64(number)), axis=0)
            if len(directions) > 1
            else graph.add("Squeeze", state, zero)
            for state in states
        ]  # [batch, size]
        y, *last = _direction(graph, module, weights, x, before, reverse=number == 1)
        outputs.append(y)
        after.append([graph.add("Unsqueeze", state, zero) for state in last])
    if len(directions) == 1:
        return outputs[0], after[0]
    return graph.add("Concat", *outputs, axis=2), [graph.add("Concat", *parts, axis=0) for parts in zip(*after, strict=True)]


def _direction(
    graph: Graph, module: Recurrent, weights: Direction, x: str, states: Sequence[str], *, reverse: bool
) -> list[str]:
    """y and the last states of one direction. The input's products are taken for all time steps at once, outside the loop."""
    projected = _affine(graph, x, weights.w, weights.b_ih)  # [seq_len, batch, gates * hidden]
    body = Graph(graph.name("scan"))
    names = [body.name("state") for _ in states]
    gates = body.name("gates")
    step = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}[kind(module)]
    after = step(graph, body, module, weights, gates, names)
    y = body.add("Identity", after[0])
    info = [helper.make_tensor_value_info(name, 1, None) for name in (*names, gates, *after, y)]
    count = len(states)
    subgraph = helper.make_graph(body.nodes, body.prefix, info[: count + 1], info[count + 1 :], body.initializers)
    *last, y = graph.add_many(
        "Scan",
        [*states, projected],
        count + 1,
        body=subgraph,
        num_scan_inputs=1,
        scan_input_directions=[int(reverse)],
        scan_output_directions=[int(reverse)],
    )
    return [y, *last]


def _affine(graph: Graph, x: str, weight: Array, bias: Array | None, body: Graph | None = None) -> str:
    """x @ weight.T + bias; inside a loop's body, with the weight kept outside of it."""
    inner = body or graph
    product = inner.add("MatMul", x, graph.constant(weight.T, "weight"))
    return product if bias is None else inner.add("Add", product, graph.constant(bias, "bias"))


def _lstm(graph: Graph, body: Graph, module: Recurrent, weights: Direction, gates: str, states: Sequence[str]) -> list[str]:
    h, c = states
    total = body.add("Add", gates, _affine(graph, h, weights.r, weights.b_hh, body))
    i, f, g, o = body.add_many("Split", [total], 4, axis=-1)
    i, f, o = (body.add("Sigmoid", gate) for gate in (i, f, o))
    c = body.add("Add", body.add("Mul", f, c), body.add("Mul", i, body.add("Tanh", g)))
    h = body.add("Mul", o, body.add("Tanh", c))
    return [h if weights.w_hr is None else _affine(graph, h, weights.w_hr, None, body), c]


def _gru(graph: Graph, body: Graph, module: Recurrent, weights: Direction, gates: str, states: Sequence[str]) -> list[str]:
    (h,) = states
    r, z, n = body.add_many("Split", [gates], 3, axis=-1)
    h_r, h_z, h_n = body.add_many("Split", [_affine(graph, h, weights.r, weights.b_hh, body)], 3, axis=-1)
    r, z = (body.add("Sigmoid", body.add("Add", a, b)) for a, b in ((r, h_r), (z, h_z)))
    n = body.add("Tanh", body.add("Add", n, body.add("Mul", r, h_n)))
    return [body.add("Add", n, body.add("Mul", z, body.add("Sub", h, n)))]


def _rnn(graph: Graph, body: Graph, module: Recurrent, weights: Direction, gates: str, states: Sequence[str]) -> list[str]:
    return [body.add(activation(module), body.add("Add", gates, _affine(graph, states[0], weights.r, weights.b_hh, body)))]
