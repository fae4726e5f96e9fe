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
        squeezed = [] if tensor.time_axis is None else [after.ints(tensor.time_axis)]
        after.add_many("Squeeze" if squeezed else "Identity", [f"step/{tensor.name}", *squeezed], [f"now/{tensor.name}"])
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
        [*(s.output for s in spec.states), *(f"{'each/' * (t.time_axis is None)}{t.name}" for t in spec.outputs)],
        body=body,
        num_scan_inputs=len(timed),
        scan_input_axes=[t.time_axis for t in timed],
        scan_output_axes=[t.time_axis or 0 for t in spec.outputs],
    )
    for tensor in spec.outputs:  # the same for all steps: that of the last
        if tensor.time_axis is None:
            last = outer.constant(np.array(-1, np.int64))
            outer.add_many("Gather", [f"each/{tensor.name}", last], [tensor.name], axis=0)
    return to_model(helper.make_graph(outer.nodes, spec.name, [], [], outer.initializers), spec, step.opset_import)


def _info(prefix: str, tensor: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        f"{prefix}/{tensor.name}", helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)), None
    )
