"""A model of one time step, run for each: an ONNX Scan around it. So a Python loop over a cell stays a loop."""

import numpy as np
import onnx
from onnx import helper
from statecell.spec import ModelSpec, TensorSpec

from statecell_export.writing.graph import Graph, next_state, renamed, to_model


def loop(step: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """step: a model with spec's signature that was traced at seq_len 1 and is right there."""
    tensors = [*spec.inputs, *spec.outputs, *(s.tensor for s in spec.states), *map(next_state, spec.states)]
    inner = renamed(step.graph, {tensor.name: f"step/{tensor.name}" for tensor in tensors})
    before, after, outer = Graph("/before"), Graph("/after"), Graph()
    timed = [tensor for tensor in spec.inputs if tensor.time_axis is not None]
    for tensor in spec.inputs:
        if tensor.time_axis is None:
            before.add_many("Identity", [tensor.name], [f"step/{tensor.name}"])
        else:
            before.add_many("Unsqueeze", [f"now/{tensor.name}", before.ints(tensor.time_axis)], [f"step/{tensor.name}"])
    for tensor in spec.outputs:
        assert tensor.time_axis is not None, "a model whose output has no time axis is not streamable and has no loop"
        after.add_many("Squeeze", [f"step/{tensor.name}", after.ints(tensor.time_axis)], [f"now/{tensor.name}"])
    body = helper.make_graph(
        [*before.nodes, *inner.node, *after.nodes],
        "step",
        [_info("step", s.tensor) for s in spec.states] + [_info("now", t) for t in timed],
        [_info("step", next_state(s)) for s in spec.states] + [_info("now", t) for t in spec.outputs],
    )
    outer.initializers.extend([*before.initializers, *inner.initializer, *after.initializers])
    outer.add_many(
        "Scan",
        [*(s.input for s in spec.states), *(t.name for t in timed)],
        [*(s.output for s in spec.states), *(t.name for t in spec.outputs)],
        body=body,
        num_scan_inputs=len(timed),
        scan_input_axes=[t.time_axis for t in timed],
        scan_output_axes=[t.time_axis for t in spec.outputs],
    )
    return to_model(helper.make_graph(outer.nodes, spec.name, [], [], outer.initializers), spec, step.opset_import)


def _info(prefix: str, tensor: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        f"{prefix}/{tensor.name}", helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)), None
    )
