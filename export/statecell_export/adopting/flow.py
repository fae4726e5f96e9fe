"""Where a tensor of an ONNX graph comes from and where it goes, followed through operators that only move values."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

_FIRST = {"Squeeze", "Unsqueeze", "Reshape", "Transpose", "Slice", "Gather", "Split", "Identity", "Cast", "Expand", "Flatten"}


@dataclass(frozen=True)
class Origin:
    """What a value was before it was only moved: "input", "zeros", "constant" or "computed", and the name of that value."""

    kind: str
    name: str


def _moved(node: onnx.NodeProto) -> list[str]:
    """The inputs whose values a node hands on as they are; none where it computes."""
    if node.domain not in {"", "ai.onnx"}:
        return []
    if node.op_type in _FIRST:
        return [node.input[0]]
    if node.op_type == "Concat":
        return list(node.input)
    return list(node.input[1:3]) if node.op_type == "Where" else []


def _taken(node: onnx.NodeProto) -> set[str]:
    """What a node takes, the graphs within it too."""
    graphs = [graph for a in node.attribute for graph in ([a.g] if a.type == onnx.AttributeProto.GRAPH else a.graphs)]
    return {*node.input, *(name for graph in graphs for inner in graph.node for name in _taken(inner))}


class Flow:
    """The ways of tensors through the outer graph.

    >>> Flow(model).origins("initial_h")
    {Origin(kind='input', name='h_0')}
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._inputs = {value.name for value in model.graph.input}
        self._outputs = [value.name for value in model.graph.output]
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output if name}

    def origins(self, name: str) -> set[Origin]:
        """All that a value is put together from, walked back through what only moves values."""
        found: set[Origin] = set()
        waiting, seen = [name], {name}
        while waiting:
            value = waiting.pop()
            before = _moved(self._makers[value]) if value in self._makers else []
            if not before:
                found.add(self._origin(value))
            waiting.extend(set(before) - seen)
            seen.update(before)
        return found

    def reaches(self, names: Iterable[str]) -> list[str]:
        """The graph outputs that hold one of these values, only moved, in the order of the signature."""
        held = set(names)
        for node in self._makers.values():  # nodes stand in topological order
            if held.intersection(_moved(node)):
                held.update(node.output)
        return [name for name in self._outputs if name in held]

    def sources(self, name: str) -> set[str]:
        """The graph inputs that a value is computed from."""
        waiting, seen = [name], {name}
        while waiting:
            maker = self._makers.get(waiting.pop())
            before = _taken(maker) - seen if maker is not None else set()
            waiting.extend(before)
            seen |= before
        return seen & self._inputs

    def _origin(self, name: str) -> Origin:
        if name in self._inputs:
            return Origin("input", name)
        maker = self._makers.get(name)
        if name in self._constants:
            return _constant(name, numpy_helper.to_array(self._constants[name]))
        if maker is None:
            return Origin("computed", name)
        named = {attribute.name: helper.get_attribute_value(attribute) for attribute in maker.attribute}
        if maker.op_type == "ConstantOfShape":
            return _constant(name, numpy_helper.to_array(named["value"]) if "value" in named else np.zeros(1, np.float32))
        if maker.op_type == "Constant" and "value" in named:
            return _constant(name, numpy_helper.to_array(named["value"]))
        return Origin("computed", name)


def _constant(name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Origin:
    return Origin("constant" if array.astype(bool).any() else "zeros", name)
