"""A lifted module as an ONNX graph: PyTorch's trace around, recurrent nodes built from the weights inside.

The trace sees each recurrent call as one opaque node; `build` fills it in afterwards. So every option of the recurrent
modules works here as it does alone, projections too, which the tracing exporter refuses.
"""

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import onnx
import torch
import torch._VF
from onnx import TensorProto, helper
from statecell.spec import ModelSpec
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.onnx.utils import register_custom_op_symbolic, unregister_custom_op_symbolic

from statecell_export.errors import ModuleRefusedError
from statecell_export.quiet import quiet
from statecell_export.reading.lift import Lifted, Plan, Run, States, states_of
from statecell_export.reading.recurrent import Cell, Recurrent
from statecell_export.writing.build import build
from statecell_export.writing.graph import OPSET, Graph, next_state, to_model

_DOMAIN = "statecell"

Compute = Callable[..., tuple[Tensor, ...]]


def traced(module: nn.Module, plan: Plan, spec: ModelSpec, tensors: tuple[Tensor, ...]) -> onnx.ModelProto:
    """`module`, lifted by `plan`, at any sizes. tensors: its inputs and states. Raises ModuleRefusedError."""
    calls: list[Recurrent] = []
    states = [state.tensor for state in spec.states]
    signature = [*spec.inputs, *states, *spec.outputs, *map(next_state, spec.states)]
    file = io.BytesIO()
    with quiet(), torch.no_grad(), _unpacked(), _silent(), _symbolics():
        try:
            torch.onnx.export(
                Lifted(module, plan, _opaque(calls)),
                tensors,
                file,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=OPSET,
                custom_opsets={_DOMAIN: 1} if plan.chains else {},
                input_names=[tensor.name for tensor in (*spec.inputs, *states)],
                output_names=[tensor.name for tensor in signature[len(spec.inputs) + len(states) :]],
                dynamic_axes={
                    tensor.name: {axis: size for axis, size in enumerate(tensor.shape) if isinstance(size, str)}
                    for tensor in signature
                },
            )
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModuleRefusedError(
                f"{type(module).__name__}.forward has a part that ONNX cannot express: {reason}; replace that operation"
            ) from error
    model = onnx.load_from_string(file.getvalue())
    graph = _filled(model.graph, calls)
    return to_model(graph, spec, [opset for opset in model.opset_import if opset.domain != _DOMAIN])


def _opaque(calls: list[Recurrent]) -> Callable[[Run, Recurrent, Any, States | None], Any]:
    """Runs a recurrent call as one opaque node, and appends its module to `calls`."""

    def intercept(run: Run, module: Recurrent, input: Any, states: States | None) -> Any:
        assert states is not None, "every recurrence in the plan has states"
        calls.append(module)
        if not isinstance(input, PackedSequence):

            def compute(x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
                result = run(module, x, states)
                after = states_of(module, result)
                return (after[0].clone() if isinstance(module, Cell) else result[0], *after)

            y, *after = _apply(compute, module, len(calls) - 1, input.dim(), input, *states)
            following = tuple(after) if len(after) > 1 else after[0]
            return following if isinstance(module, Cell) else (y, following)

        assert not isinstance(module, Cell)
        *before, lengths = *(_permuted(state, input.sorted_indices) for state in states), input.batch_sizes

        def compute_packed(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
            *states, lengths = rest
            packed = PackedSequence(*_PACK(x, lengths, False))
            result = run(module, packed, tuple(states))
            y, _ = _PAD(result[0].data, packed.batch_sizes, False, 0.0, x.size(0))
            return (y, *states_of(module, result))

        y, *after = _apply(compute_packed, module, len(calls) - 1, 3, input.data, *before, lengths)
        following = tuple(_permuted(state, input.unsorted_indices) for state in after)
        packed = PackedSequence(y, lengths, input.sorted_indices, input.unsorted_indices)
        return packed, following if len(following) > 1 else following[0]

    return intercept


def _permuted(state: Tensor, order: Tensor | None) -> Tensor:
    return state if order is None else state.index_select(1, order)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Where it fails it prints the graph, from Python and from C++."""
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        torch._C._jit_onnx_log = log


def _copy(g: Any, target: Any, source: Any, _non_blocking: Any) -> Any:
    """x.copy_(y), of which the exporter makes an operator that it does not know."""
    return g.op("Expand", g.op("CastLike", source, target), g.op("Shape", target))


def _log_sigmoid(g: Any, x: Any) -> Any:
    """In place of the logarithm of a sigmoid, which is zero far below zero."""
    return g.op("Neg", g.op("Softplus", g.op("Neg", x)))


_SYMBOLICS: dict[str, Callable[..., Any]] = {"aten::copy": _copy, "aten::log_sigmoid": _log_sigmoid}


@contextlib.contextmanager
def _symbolics() -> Iterator[None]:
    """What the exporter lacks, or does less exactly."""
    for name, symbolic in _SYMBOLICS.items():
        register_custom_op_symbolic(name, symbolic, OPSET)
    try:
        yield
    finally:
        for name in _SYMBOLICS:
            unregister_custom_op_symbolic(name, OPSET)


_PACK, _PAD = torch._C._VariableFunctions._pack_padded_sequence, torch._C._VariableFunctions._pad_packed_sequence


@contextlib.contextmanager
def _unpacked() -> Iterator[None]:
    """Packed sequences stay padded, as ONNX's nodes take them: `data` is [seq_len, batch, size], `batch_sizes` the lengths."""

    def pack(x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        return (x.transpose(0, 1) if batch_first else x), lengths

    def pad(data: Tensor, lengths: Tensor, batch_first: bool, padding: float, _total: int) -> tuple[Tensor, Tensor]:
        if padding:
            raise ModuleRefusedError(f"pad_packed_sequence pads with {padding}, which ONNX's nodes do not; pad with 0")
        return (data.transpose(0, 1) if batch_first else data), lengths

    torch._VF._pack_padded_sequence, torch._VF._pad_packed_sequence = pack, pad  # type: ignore[assignment]
    try:
        yield
    finally:
        del torch._VF._pack_padded_sequence, torch._VF._pad_packed_sequence


class _Opaque(torch.autograd.Function):
    """A recurrent call that the exporter sees as one node, statecell::Recurrent(x, *states[, lengths]) -> (y, *next states)."""

    @staticmethod
    def forward(
        _ctx: Any, compute: Compute, _module: Recurrent, _call: int, _rank: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        tracing = torch._C._get_tracing_state()
        torch._C._set_tracing_state(None)  # type: ignore[attr-defined]  # what happens inside is no part of the trace
        try:
            return compute(*tensors)
        finally:
            torch._C._set_tracing_state(tracing)  # type: ignore[attr-defined]

    @staticmethod
    def symbolic(g: Any, _compute: Compute, module: Recurrent, call: int, rank: int, x: Any, *rest: Any) -> Any:
        states = 2 if isinstance(module, nn.LSTM | nn.LSTMCell) else 1
        outputs = g.op(f"{_DOMAIN}::Recurrent", x, *rest, call_i=call, rank_i=rank, outputs=1 + states)
        for output in outputs:
            output.setType(x.type().with_sizes([None] * rank))
        return outputs


def _apply(compute: Compute, module: Recurrent, call: int, rank: int, *tensors: Tensor) -> list[Tensor]:
    return list(_Opaque.apply(compute, module, call, rank, *tensors))  # type: ignore[no-untyped-call]


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
        lengths = inner.add("Cast", states.pop(), to=TensorProto.INT32) if len(states) == len(node.output) else ""
        batched = helper.get_node_attr_value(node, "rank") == (2 if isinstance(calls[call], Cell) else 3)
        y, after = build(inner, calls[call], x, states, lengths=lengths, batched=batched)
        for source, name in zip((y, *after), node.output, strict=True):
            inner.add_many("Identity", [source], [name])
        nodes.extend(inner.nodes)
        graph.initializer.extend(inner.initializers)
    del graph.node[:]
    graph.node.extend(nodes)
    return graph
