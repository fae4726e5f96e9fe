"""An LSTM with projections, which ONNX's own node lacks, as matrix products inside ONNX Scan.

Equations: https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

from statecell_export.reading.recurrent import Array, Direction, Recurrent
from statecell_export.writing.graph import Graph


@dataclass(frozen=True)
class Layer:
    """One layer of a recurrent module, and the graph that its nodes go to."""

    graph: Graph
    module: Recurrent
    directions: Sequence[Direction]
    x: str  # [seq_len, batch, input_size]
    states: Sequence[str]  # each [num_directions, batch, size]
    lengths: str = ""  # int32 [batch], "" where every row is seq_len long


def scan(layer: Layer) -> tuple[str, list[str]]:
    """y [seq_len, batch, num_directions * size] and the next states [num_directions, batch, size]."""
    graph, zero = layer.graph, layer.graph.ints(0)
    count = len(layer.directions)
    mask = _mask(layer) if layer.lengths else ""
    outputs: list[str] = []
    after: list[list[str]] = []
    for number, weights in enumerate(layer.directions):
        before = [
            graph.add("Gather", state, graph.constant(np.int64(number)), axis=0) for state in layer.states
        ]  # [batch, size]
        y, *last = _Direction(layer, weights, reverse=number == 1).run(before, mask)
        outputs.append(y)
        after.append([graph.add("Unsqueeze", state, zero) for state in last])
    if count == 1:
        return outputs[0], after[0]
    return graph.add("Concat", *outputs, axis=2), [graph.add("Concat", *parts, axis=0) for parts in zip(*after, strict=True)]


def _mask(layer: Layer) -> str:
    """bool [seq_len, batch, 1]: whether a row still runs at a time step."""
    graph = layer.graph
    seq_len = graph.add("Squeeze", graph.add("Shape", layer.x, end=1), graph.ints(0))
    one, zero = (graph.constant(np.int64(value)) for value in (1, 0))
    time = graph.add("Unsqueeze", graph.add("Range", zero, seq_len, one), graph.ints(1, 2))
    lengths = graph.add("Unsqueeze", graph.add("Cast", layer.lengths, to=TensorProto.INT64), graph.ints(0, 2))
    return graph.add("Less", time, lengths)


@dataclass(frozen=True)
class _Direction:
    """One direction of a layer. The input's products are taken for all time steps at once, outside the loop."""

    layer: Layer
    weights: Direction
    reverse: bool

    def run(self, states: Sequence[str], mask: str) -> list[str]:
        """y [seq_len, batch, size] and the last states [batch, size]."""
        graph = self.layer.graph
        projected = self._affine(graph, self.layer.x, self.weights.w, self.weights.b_ih)  # [seq_len, batch, gates * hidden]
        body = Graph(graph.name("scan"))
        before = [body.name("state") for _ in states]
        gates, running = body.name("gates"), body.name("running")
        after = self._step(body, gates, before)
        y = body.add("Identity", after[0])
        if mask:
            after = [body.add("Where", running, new, old) for new, old in zip(after, before, strict=True)]
            y = body.add("Where", running, y, body.constant(np.float32(0)))
        inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (*before, gates)]
        if mask:
            inputs.append(helper.make_tensor_value_info(running, TensorProto.BOOL, None))
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (*after, y)]
        sequences = [projected, mask] if mask else [projected]
        *last, y = graph.add_many(
            "Scan",
            [*states, *sequences],
            len(outputs),
            body=helper.make_graph(body.nodes, body.prefix, inputs, outputs, body.initializers),
            num_scan_inputs=len(sequences),
            scan_input_directions=[int(self.reverse)] * len(sequences),
            scan_output_directions=[int(self.reverse)],
        )
        return [y, *last]

    def _affine(self, inside: Graph, x: str, weight: Array, bias: Array | None) -> str:
        """x @ weight.T + bias, computed `inside` the loop or before it; the weight is kept outside of the loop."""
        product = inside.add("MatMul", x, self.layer.graph.constant(weight.T, "weight"))
        return product if bias is None else inside.add("Add", product, self.layer.graph.constant(bias, "bias"))

    def _step(self, body: Graph, gates: str, states: Sequence[str]) -> list[str]:
        """One time step: the next states."""
        assert self.weights.w_hr is not None
        h, c = states
        total = body.add("Add", gates, self._affine(body, h, self.weights.r, self.weights.b_hh))
        i, f, g, o = body.add_many("Split", [total], 4, axis=-1)
        i, f, o = (body.add("Sigmoid", gate) for gate in (i, f, o))
        c = body.add("Add", body.add("Mul", f, c), body.add("Mul", i, body.add("Tanh", g)))
        h = body.add("Mul", o, body.add("Tanh", c))
        return [self._affine(body, h, self.weights.w_hr, None), c]
