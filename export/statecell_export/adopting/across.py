"""Operators that put the time steps of a sequence together, found by following which axis of each value is seq_len."""

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper
from statecell.spec import SEQ_LEN

_REDUCED = {"ArgMax", "ArgMin"}
_NORMALISED = {"Softmax": -1, "LogSoftmax": -1, "Hardmax": -1, "LpNormalization": -1, "CumSum": 0, "TopK": -1}
"""What goes along one axis, and which where it is not said."""
_OVER_ALL_SPACE = {"InstanceNormalization", "GroupNormalization"}
_WINDOWED = {"Conv", "ConvTranspose", "AveragePool", "MaxPool", "LpPool"}
_PICKED = {"Gather", "GatherND", "ReverseSequence", "Compress"}


class Across:
    """`Across(model, states).reason()`; `states`: the outputs that carry a state on, which may hang on all steps."""

    def __init__(self, model: onnx.ModelProto, states: Iterable[str]) -> None:
        """The signature's sizes are those of a ModelSpec."""
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        self._nodes = inferred.graph.node
        self._constants = {t.name: numpy_helper.to_array(t) for t in inferred.graph.initializer}
        for node in self._nodes:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self._constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        known = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
        self._shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in known}
        self._told = {v.name for v in inferred.graph.output} - set(states)

    def reason(self) -> str:
        """Which operator an output hangs on that looks at other steps than its own, in words; "" where none is known."""
        wanted = set(self._told)
        for node in reversed(self._nodes):  # which stand in topological order
            if not wanted.intersection(node.output):
                continue
            if word := self._across(node):
                return f"node {node.name or node.output[0]!r} ({node.op_type}) {word}"
            wanted.update(node.input)
        return ""

    def _across(self, node: onnx.NodeProto) -> str:  # noqa: PLR0911  # a line an operator
        """What the node does along the time axis of its inputs."""
        time = self._time(node.input[0]) if node.input else None
        kind = node.op_type
        if kind in ("MatMul", "Gemm"):
            return "sums over the time steps" if self._contracts(node) else ""
        if time is None:
            return ""
        rank = len(self._shapes[node.input[0]])
        said = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if (kind.startswith("Reduce") or kind in _REDUCED) and time in self._reduced(node, said, rank):
            return "puts all time steps together"
        if kind in _NORMALISED and time == self._axis(node, said, _NORMALISED[kind]) % rank:
            return "goes along the time steps"
        if kind == "LayerNormalization" and time >= said.get("axis", -1) % rank:
            return "normalises over the time steps"
        if (kind in _OVER_ALL_SPACE or kind.startswith("Global")) and time >= 2:
            return "puts all time steps together"
        if kind in _WINDOWED and time >= 2 and self._window(node, said)[time - 2] != 1:
            return "looks at the steps beside each"
        if kind == "Slice" and time in self._cut_axes(node, rank):
            return "takes some of the time steps"
        if kind in _PICKED and (kind != "Gather" or said.get("axis", 0) % rank == time):
            return "takes some of the time steps"
        return ""

    def _time(self, name: str) -> int | None:
        shape = self._shapes.get(name, [])
        return shape.index(SEQ_LEN) if SEQ_LEN in shape else None

    def _contracts(self, node: onnx.NodeProto) -> bool:
        left, right = (self._shapes.get(name, []) for name in node.input[:2])
        transposed = {a.name: a.i for a in node.attribute}
        last = left[-2:-1] if transposed.get("transA") else left[-1:]
        first = (right[-1:] if transposed.get("transB") else right[-2:-1]) if len(right) > 1 else right
        return SEQ_LEN in (*last, *first)

    def _ints(self, node: onnx.NodeProto, place: int) -> Sequence[int] | None:
        """An input's numbers, where it is there; None where they are not known."""
        if len(node.input) <= place or not node.input[place]:
            return []
        found = self._constants.get(node.input[place])
        return None if found is None else [int(n) for n in np.atleast_1d(found)]

    def _reduced(self, node: onnx.NodeProto, said: dict[str, object], rank: int) -> set[int]:
        axes: object = said.get("axes", said.get("axis"))
        if axes is None:
            axes = [0] if node.op_type in _REDUCED else self._ints(node, 1)
        if axes is None:
            return set()  # which are not known
        listed = [axes] if isinstance(axes, int) else list(axes)  # type: ignore[call-overload]
        if not listed and said.get("noop_with_empty_axes"):
            return set()
        return {axis % rank for axis in listed} or set(range(rank))

    def _axis(self, node: onnx.NodeProto, said: dict[str, object], default: int) -> int:
        if node.op_type == "CumSum":
            found = self._ints(node, 1)
            return found[0] if found else default
        axis = said.get("axis", default)
        assert isinstance(axis, int), "it is an int in every version of these"
        return axis

    def _window(self, node: onnx.NodeProto, said: dict[str, object]) -> Sequence[int]:
        kernel = said.get("kernel_shape")
        if kernel is None:
            weights = self._shapes.get(node.input[1], []) or list(self._constants[node.input[1]].shape)
            kernel = weights[2:]
        return list(kernel)  # type: ignore[call-overload,no-any-return]

    def _cut_axes(self, node: onnx.NodeProto, rank: int) -> set[int]:
        starts, ends = self._ints(node, 1), self._ints(node, 2)
        axes, steps = self._ints(node, 3), self._ints(node, 4)
        if starts is None or ends is None or axes is None or steps is None:
            return set()
        axes = axes or list(range(len(starts)))
        steps = steps or [1] * len(starts)
        whole = [start == 0 and end >= 1 << 31 and step == 1 for start, end, step in zip(starts, ends, steps, strict=True)]
        return {axis % rank for axis, all_of_it in zip(axes, whole, strict=True) if not all_of_it}
