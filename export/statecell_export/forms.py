"""The number formats in which an ONNX file can hold a model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from statecell.spec import ModelSpec
from statecell_export.errors import ModuleRefusedError
from statecell_export.recurrent import Array

BLOCK = 32
"""8-bit weights share a scale in blocks of 32 along the input; in larger ones ONNX Runtime's result depends on the batch."""

_MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Form:
    """A number format.

    fused: whether recurrent modules become ONNX's own nodes. row_by_row: whether it must be shown that rows do not mix.
    weights: rounds a module's weights, in place, to what the format can hold. finish: puts a float32 graph into it.
    floor: the rounding error of one step (see grid.Ledger). disturbed: a float input after one rounding.
    """

    name: str
    dtype: str
    fused: bool
    torchscript: bool
    row_by_row: bool
    weights: Callable[[nn.Module], None]
    finish: Callable[[onnx.ModelProto], onnx.ModelProto]
    floor: Callable[[nn.Module], float]
    disturbed: Callable[[Array], Array]

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
    """The largest norm of a weight matrix's row: what it makes of independent errors in its inputs."""
    return max((float(p.detach().norm(dim=-1).max()) for p in module.parameters() if p.dim() > 1), default=1.0)


def _half_weights(module: nn.Module) -> None:
    for path, weight in module.named_parameters():
        if not torch.isfinite(weight.data.half()).all():
            raise ModuleRefusedError(f"parameter {path!r} does not fit float16: its largest magnitude is {float(weight.abs().max()):.3g}")
        weight.data.copy_(weight.data.half())


def _half(model: onnx.ModelProto) -> onnx.ModelProto:
    for graph in graphs(model.graph):
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
    return model


def _to_half(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") or attribute.graphs else ():
                yield from graphs(inner)


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
    """Each product with a constant matrix as MatMulNBits, https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.

    accuracy_level 4 is the fast kernel: it rounds each row of activations by itself, so that no row depends on another.
    """
    found = list(graphs(model.graph))
    constants = {tensor.name: tensor for graph in found for tensor in graph.initializer}
    done: dict[str, tuple[str, str]] = {}
    for graph in found:
        for node in graph.node:
            if node.op_type == "MatMul" and node.input[1] in constants and len(constants[node.input[1]].dims) == 2:
                weight = numpy_helper.to_array(constants[node.input[1]])  # [inputs, rows]
                if node.input[1] not in done:
                    names = (f"{node.input[1]}/bytes", f"{node.input[1]}/scales")
                    model.graph.initializer.extend(map(numpy_helper.from_array, quantized(weight.T), names))
                    done[node.input[1]] = names
                attributes = {"K": weight.shape[0], "N": weight.shape[1], "bits": 8, "block_size": BLOCK, "accuracy_level": 4}
                inputs = [node.input[0], *done[node.input[1]]]
                node.CopyFrom(
                    helper.make_node("MatMulNBits", inputs, node.output, node.name, domain=_MICROSOFT, **attributes)
                )
    for graph in found:
        kept = [tensor for tensor in graph.initializer if tensor.name not in done]
        del graph.initializer[:]
        graph.initializer.extend(kept)
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
            weights=lambda module: None,
            finish=lambda model: model,
            floor=lambda module: fan_in(module) ** 0.5 * 2.0**-24,
            disturbed=lambda array: array,
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
            disturbed=lambda array: array * np.float32(1 + 2.0**-11),
        ),
        Form(
            name="int8",
            dtype="float32",
            fused=False,
            torchscript=False,
            row_by_row=True,
            weights=_byte_weights,
            finish=_bytes,
            floor=lambda module: _row_norm(module) * 2.0**-8,
            disturbed=_rounded_to_bytes,
        ),
    )
}
