"""The number formats in which an ONNX file can hold a model."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from statecell.spec import ModelSpec
from torch import nn

from statecell_export.errors import ModuleRefusedError
from statecell_export.graph import Graph, graphs
from statecell_export.recurrent import Array

BLOCK = 32
"""8-bit weights share a scale in blocks of 32 along the input; in larger ones ONNX Runtime's result depends on the batch."""

_MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Form:
    """A number format.

    fused: whether recurrent modules become ONNX's own nodes. row_by_row: whether it must be shown that rows do not mix.
    weights: rounds a module's weights, in place, to what the format can hold. finish: puts a float32 graph into it.
    floor: the rounding error of one step (see grid.Ledger). disturbed: a float input after one rounding, None where
    the module itself computes in this format.
    """

    name: str
    dtype: str
    fused: bool
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


def _row_norm(module: nn.Module) -> float:
    """The largest norm of a weight matrix's row: how it passes on independent errors of its inputs."""
    return max((float(p.detach().norm(dim=-1).max()) for p in module.parameters() if p.dim() > 1), default=1.0)


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


def quantized(weight: Array) -> tuple[Array, Array]:
    """[rows, inputs] as bytes [rows, blocks, BLOCK] around 128, and their scales [rows, blocks]."""
    rows, inputs = weight.shape
    blocks = -(-inputs // BLOCK)
    padded = np.zeros((rows, blocks * BLOCK), np.float32)
    padded[:, :inputs] = weight
    padded = padded.reshape(rows, blocks, BLOCK)
    scales = np.abs(padded).max(-1) / 127
    scales[scales == 0] = 1
    return (np.rint(padded / scales[..., None]) + 128).astype(np.uint8), scales.astype(np.float32)


def _byte_weights(module: nn.Module) -> None:
    for child in module.modules():
        for weight in child.parameters(recurse=False):
            if isinstance(child, nn.RNNBase | nn.RNNCellBase | nn.Linear) and weight.dim() == 2:
                whole, scales = quantized(weight.detach().numpy())
                exact = (whole.astype(np.float32) - 128) * scales[..., None]
                weight.data.copy_(torch.from_numpy(exact.reshape(len(exact), -1)[:, : weight.shape[1]]))


def _bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Each product with a constant matrix as MatMulNBits (onnxruntime's docs/ContribOperators.md).

    accuracy_level 4 is the fast kernel: it rounds each row of activations by itself, so that no row depends on another.
    """
    found = list(graphs(model.graph))
    constants = {tensor.name: tensor for graph in found for tensor in graph.initializer if len(tensor.dims) == 2}
    bytes_of: dict[str, Graph] = {}  # of a constant: the bytes and the scales, as initializers of the outer graph
    for graph in reversed(found):  # the inner ones first: putting a node into a list copies what is inside
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            name = node.input[1] if node.op_type in {"MatMul", "Gemm"} else ""
            if name not in constants:
                nodes.append(node)
                continue
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            weight = numpy_helper.to_array(constants[name])  # [inputs, rows], transposed [rows, inputs]
            weight = weight if transposed else weight.T
            if name not in bytes_of:
                bytes_of[name] = Graph(name)
                for array, hint in zip(quantized(weight), ("bytes", "scales"), strict=True):
                    bytes_of[name].constant(array, hint)
            inner = Graph(node.output[0])
            bias = list(node.input[2:])
            (product,) = inner.add_many(
                "MatMulNBits",
                [node.input[0], *(tensor.name for tensor in bytes_of[name].initializers)],
                1 if bias else node.output,
                domain=_MICROSOFT,
                **{"N": weight.shape[0], "K": weight.shape[1], "bits": 8, "block_size": BLOCK, "accuracy_level": 4},
            )
            if bias:
                inner.add_many("Add", [product, *bias], node.output)
            nodes.extend(inner.nodes)
        del graph.node[:]
        graph.node.extend(nodes)
    for graph in graphs(model.graph):
        kept = [tensor for tensor in graph.initializer if tensor.name not in bytes_of]
        del graph.initializer[:]
        graph.initializer.extend(kept)
    model.graph.initializer.extend(tensor for held in bytes_of.values() for tensor in held.initializers)
    model.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))
    return model


def _rounded_to_bytes(array: Array) -> Array:
    scale = max(float(np.abs(array).max(initial=0.0)), 1e-30) / 127
    return (np.rint(array / scale) * scale).astype(array.dtype)


FORMS = {
    form.name: form
    for form in (
        Form(
            name="float32",
            dtype="float32",
            fused=True,
            torchscript=True,
            row_by_row=False,
            weights=lambda _: None,
            finish=lambda model: model,
            floor=lambda module: fan_in(module) ** 0.5 * 2.0**-24,
            disturbed=None,
        ),
        Form(
            name="float16",
            dtype="float16",
            fused=True,
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
            fused=False,
            torchscript=False,
            row_by_row=True,
            weights=_byte_weights,
            finish=_bytes,
            floor=lambda module: (
                _row_norm(module) * 2.0**-6
            ),  # a block is rounded to 1/254 of its largest, which is up to 4 on the grid
            disturbed=_rounded_to_bytes,
        ),
    )
}
