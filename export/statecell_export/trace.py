"""A lifted module as an ONNX graph: PyTorch's trace around, recurrent nodes built from the weights inside.

The trace sees each recurrent call as one opaque node; `build` fills it in afterwards. So every option of the recurrent
modules works here as it does alone, projections too, which the tracing exporter refuses.
"""

import io
from typing import Any

import numpy as np
import onnx
import torch
from onnx import compose, helper
from statecell.spec import ModelSpec
from torch import Tensor, nn

from statecell_export.build import build
from statecell_export.errors import ModuleRefusedError
from statecell_export.graph import OPSET, Graph, next_state, to_model
from statecell_export.lift import Lifted, Plan, Run, States
from statecell_export.quiet import quiet
from statecell_export.recurrent import Cell, Recurrent

_DOMAIN = "statecell"


def direct(module: Recurrent, spec: ModelSpec) -> onnx.ModelProto:
    """A bare recurrent module, without any trace."""
    graph = Graph()
    y, after = build(graph, module, spec.inputs[0].name, [state.input for state in spec.states])
    for source, tensor in zip((y, *after), (*spec.outputs, *map(next_state, spec.states)), strict=True):
        graph.add_many("Identity", [source], [tensor.name])
    return to_model(helper.make_graph(graph.nodes, spec.name, [], [], graph.initializers), spec)


def traced(module: nn.Module, plan: Plan, spec: ModelSpec, tensors: tuple[Tensor, ...]) -> onnx.ModelProto:
    """`module`, lifted by `plan`, at any sizes. tensors: its inputs and states, with no axis of size 1."""
    calls: list[Recurrent] = []

    def opaque(run: Run, called: Recurrent, input: Any, states: States | None) -> Any:
        assert states is not None, "every recurrence in the plan has states"
        calls.append(called)
        y, *after = _Opaque.apply(run, called, len(calls) - 1, input, *states)  # type: ignore[no-untyped-call]
        following = tuple(after) if len(after) > 1 else after[0]
        return following if isinstance(called, Cell) else (y, following)

    names = [t.name for t in spec.inputs] + [s.input for s in spec.states]
    results = [t.name for t in spec.outputs] + [s.output for s in spec.states]
    shapes = {
        t.name: t.shape for t in (*spec.inputs, *spec.outputs, *(s.tensor for s in spec.states), *map(next_state, spec.states))
    }
    file = io.BytesIO()
    with quiet(), torch.no_grad():
        try:
            torch.onnx.export(
                Lifted(module, plan, opaque),
                tensors,
                file,
                dynamo=False,
                opset_version=OPSET,
                custom_opsets={_DOMAIN: 1} if plan.chains else {},
                input_names=names,
                output_names=results,
                dynamic_axes={
                    name: {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}
                    for name, shape in shapes.items()
                },
            )
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            raise ModuleRefusedError(f"{type(module).__name__} has a part that ONNX cannot express: {error}") from error
    model = onnx.load_from_string(file.getvalue())
    return to_model(_filled(model.graph, calls), spec, [o for o in model.opset_import if o.domain != _DOMAIN])


class _Opaque(torch.autograd.Function):
    """A recurrent call that the exporter sees as one node, statecell::Recurrent(x, *states) -> (y, *next states)."""

    @staticmethod
    def forward(ctx: Any, run: Run, module: Recurrent, call: int, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        tracing = torch._C._get_tracing_state()
        torch._C._set_tracing_state(None)  # what happens inside is no part of the trace
        try:
            result = run(module, x, states)
        finally:
            torch._C._set_tracing_state(tracing)
        if isinstance(module, Cell):
            after = result if isinstance(result, tuple) else (result,)
            return (after[0].clone(), *after)
        y, after = result
        return (y, *(after if isinstance(after, tuple) else (after,)))

    @staticmethod
    def symbolic(g: Any, run: Run, module: Recurrent, call: int, x: Any, *states: Any) -> Any:
        outputs = g.op(f"{_DOMAIN}::Recurrent", x, *states, call_i=call, outputs=1 + len(states))
        rank = 2 if isinstance(module, Cell) else 3
        for output in outputs:
            output.setType(x.type().with_sizes([None] * rank))
        return outputs


def _filled(graph: onnx.GraphProto, calls: list[Recurrent]) -> onnx.GraphProto:
    """`graph` with each opaque node replaced by the nodes of the module that it stands for."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.domain != _DOMAIN:
            nodes.append(node)
            continue
        call = helper.get_node_attr_value(node, "call")
        inner = Graph(f"/recurrent_{call}")
        x, *states = node.input
        y, after = build(inner, calls[call], x, states)
        for source, name in zip((y, *after), node.output, strict=True):
            inner.add_many("Identity", [source], [name])
        nodes.extend(inner.nodes)
        graph.initializer.extend(inner.initializers)
    del graph.node[:]
    graph.node.extend(nodes)
    return graph


def loop(body: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """A model that runs `body`, traced at seq_len 1, for each time step: an ONNX Scan."""
    inner = compose.add_prefix(body, "step/").graph
    step, outer = Graph("/step"), Graph()
    timed = [t for t in spec.inputs if t.time_axis is not None]
    for tensor in spec.inputs:
        if tensor.time_axis is None:
            step.add_many("Identity", [tensor.name], [f"step/{tensor.name}"])
        else:
            step.add_many("Unsqueeze", [f"slice/{tensor.name}", step.ints(tensor.time_axis)], [f"step/{tensor.name}"])
    last = Graph("/last")
    for tensor in spec.outputs:
        last.add_many("Squeeze", [f"step/{tensor.name}", last.ints(tensor.time_axis or 0)], [f"slice/{tensor.name}"])
    tensors = (*spec.inputs, *spec.outputs, *(s.tensor for s in spec.states), *map(next_state, spec.states))
    types = {t.name: helper.np_dtype_to_tensor_dtype(np.dtype(t.dtype)) for t in tensors}
    subgraph = helper.make_graph(
        [*step.nodes, *inner.node, *last.nodes],
        "step",
        [helper.make_tensor_value_info(f"step/{s.input}", types[s.input], None) for s in spec.states]
        + [helper.make_tensor_value_info(f"slice/{t.name}", types[t.name], None) for t in timed],
        [helper.make_tensor_value_info(f"step/{s.output}", types[s.output], None) for s in spec.states]
        + [helper.make_tensor_value_info(f"slice/{t.name}", types[t.name], None) for t in spec.outputs],
    )
    outer.initializers.extend([*step.initializers, *inner.initializer, *last.initializers])
    outer.add_many(
        "Scan",
        [*(s.input for s in spec.states), *(t.name for t in timed)],
        [*(s.output for s in spec.states), *(t.name for t in spec.outputs)],
        body=subgraph,
        num_scan_inputs=len(timed),
        scan_input_axes=[t.time_axis for t in timed],
        scan_output_axes=[t.time_axis for t in spec.outputs],
    )
    return to_model(helper.make_graph(outer.nodes, spec.name, [], [], outer.initializers), spec, body.opset_import)
