"""The number formats in which an ONNX file can hold a model."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from statecell.spec import ModelSpec
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from statecell_export.errors import ModuleRefusedError
from statecell_export.reading.recurrent import Array
from statecell_export.writing.graph import Graph, graphs


@dataclass(frozen=True)
class Form:
    """A number format.

    torchscript: whether TorchScript is written too. row_by_row: whether it must be shown that rows do not mix.
    weights: rounds a module's weights, in place, to what the format can hold. finish: puts a float32 graph into it.
    floor: the rounding error of one step (see grid.Ledger). disturbed: a float input after one rounding, None where
    the module itself computes in this format.
    """

    name: str
    dtype: str
    torchscript: bool
    row_by_row: bool
    weights: Callable[[nn.Module], None]
    finish: Callable[[onnx.ModelProto], onnx.ModelProto]
    floor: Callable[[nn.Module], float]
    disturbed: Callable[[Array], Array] | None

    def spec(self, spec: ModelSpec) -> ModelSpec:
        """`spec` with this format's dtype for float tensors."""
        return replace(
            spec,
            inputs=tuple(replace(t, dtype=self._cast(t.dtype)) for t in spec.inputs),
            outputs=tuple(replace(t, dtype=self._cast(t.dtype)) for t in spec.outputs),
            states=tuple(replace(s, dtype=self._cast(s.dtype)) for s in spec.states),
        )

    def _cast(self, dtype: str) -> str:
        return self.dtype if dtype == "float32" else dtype


def fan_in(module: nn.Module) -> int:
    """The longest sum of products in the module: its widest weight matrix, doubled for input and state together."""
    return 2 * max((p.shape[-1] for p in module.parameters() if p.dim() > 1), default=1)


def _float_floor(module: nn.Module) -> float:
    return float(fan_in(module) ** 0.5 * 2.0**-24)


def _half_weights(module: nn.Module) -> None:
    for path, weight in module.named_parameters():
        if not torch.isfinite(weight.data.half()).all():
            largest = float(weight.abs().max())
            raise ModuleRefusedError(f"parameter {path!r} does not fit float16: its largest magnitude is {largest:.3g}")
        weight.data.copy_(weight.data.half())


def _half(model: onnx.ModelProto) -> onnx.ModelProto:
    for graph in reversed(list(graphs(model.graph))):
        for tensor in graph.initializer:
            _to_half(tensor)
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                value.type.tensor_type.elem_type = TensorProto.FLOAT16
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    _to_half(attribute.t)
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.FLOAT16
        _part_transposes(graph)
    return model


def _part_transposes(graph: onnx.GraphProto) -> None:
    """Put an idle Reshape behind each Transpose: ONNX Runtime 1.31 dies of one before a float16 MatMul on the CPU."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "Transpose":
            result, inner = node.output[0], Graph(node.output[0])
            node.output[0] = inner.name("transposed")
            inner.add_many("Reshape", [node.output[0], inner.add("Shape", node.output[0])], [result])
            nodes.extend(inner.nodes)
    del graph.node[:]
    graph.node.extend(nodes)


def _to_half(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))


def _in_bytes(weight: Array, axis: int) -> tuple[Array, Array]:
    """Whole numbers of at most 127, and their scales: one for each row of numbers along `axis`.

    A scale's last seven bits are zero, so that its product with a whole number is exact in float32: no two runtimes can make
    different weights of it, and weights that were rounded once are found again to the bit.
    """
    largest = np.abs(weight).max(axis, initial=0.0, keepdims=True) / np.float32(127)
    scales = ((largest.view(np.uint32) + 127) & ~np.uint32(127)).view(np.float32)
    scales[scales == 0] = 1
    return np.rint(weight / scales).astype(np.int8), scales


def _byte_weights(module: nn.Module) -> None:
    for child in module.modules():
        if isinstance(child, ParametrizationList):  # what it computes from these is the weight, and 8 bits would not hold that
            continue
        for weight in child.parameters(recurse=False):
            if weight.dim() == 2 and weight.is_floating_point():
                whole, scales = _in_bytes(weight.detach().numpy(), -1)
                weight.data.copy_(torch.from_numpy(whole * scales))


def _bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Each constant that 8 bits hold exactly, as its bytes and a product that ONNX Runtime takes once, when it loads the model.

    Not by DequantizeLinear: ONNX Runtime takes that in each run (1.2 to 9 times the time of a step), or makes it one with
    a MatMul after it and then rounds the activations to 8 bits too.
    """
    for graph in reversed(list(graphs(model.graph))):  # the inner ones first: putting a node into a list copies what is inside
        nodes: list[onnx.NodeProto] = []
        constants: list[TensorProto] = []
        for tensor in graph.initializer:
            found = _stored(tensor)
            nodes.extend(found.nodes)
            constants.extend(found.initializers or [tensor])
        nodes.extend(graph.node)
        del graph.initializer[:], graph.node[:]
        graph.initializer.extend(constants)
        graph.node.extend(nodes)
    return model


def _stored(tensor: TensorProto) -> Graph:
    """What gives the constant by its name from 8 bits; empty where they do not hold it or save nothing."""
    graph = Graph(tensor.name)
    if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
        return graph
    weight = numpy_helper.to_array(tensor)
    for axis in (-1, -2):  # a matrix as PyTorch has it, and transposed
        whole, scales = _in_bytes(weight, axis)
        if np.array_equal(whole * scales, weight) and whole.nbytes + scales.nbytes < weight.nbytes:
            floats = graph.add("Cast", graph.constant(whole, "bytes"), to=TensorProto.FLOAT)
            graph.add_many("Mul", [floats, graph.constant(scales, "scales")], [tensor.name])
            break
    return graph


FORMS = {
    form.name: form
    for form in (
        Form(
            name="float32",
            dtype="float32",
            torchscript=True,
            row_by_row=False,
            weights=lambda _: None,
            finish=lambda model: model,
            floor=_float_floor,
            disturbed=None,
        ),
        Form(
            name="float16",
            dtype="float16",
            torchscript=False,
            row_by_row=False,
            weights=_half_weights,
            finish=_half,
            floor=lambda module: fan_in(module) ** 0.5 * 2.0**-11,
            disturbed=lambda array: array * array.dtype.type(1 + 2.0**-10),
        ),
        Form(
            name="int8",
            dtype="float32",
            torchscript=False,
            row_by_row=True,
            weights=_byte_weights,
            finish=_bytes,
            floor=_float_floor,
            disturbed=None,
        ),
    )
}
