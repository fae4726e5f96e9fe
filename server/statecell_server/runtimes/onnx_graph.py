"""Graph: the nodes and weights of a model.onnx, for those who follow them. https://github.com/onnx/onnx/blob/main/onnx/onnx.proto

ONNX Runtime shows inputs and outputs only, and the package onnx is large: this reads the few fields that are needed.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from statecell.tensor import Array

FLOAT, INT64 = 1, 7
"""TensorProto.DataType."""
_DTYPES: dict[int, np.dtype[Any]] = {FLOAT: np.dtype("<f4"), INT64: np.dtype("<i8")}

Attribute = int | float | bytes | list[bytes] | list[int] | Array | None
"""None: of a kind that nobody here reads."""


@dataclass(frozen=True)
class Node:
    """One operator's use. `domain` is "" for ONNX's own; an optional input that is left out is ""."""

    op_type: str = ""
    domain: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    attributes: dict[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """`makers`: by the name of a value, the node that makes it. `constants`: float32 and int64 initializers."""

    makers: dict[str, Node]
    constants: dict[str, Array]
    opset: int

    @classmethod
    def read(cls, content: bytes) -> "Graph":
        """Of a file that ONNX Runtime has taken. Raises ValueError where it cannot be read."""
        try:
            model = list(_fields(memoryview(content)))
            opsets = [dict(_fields(_bytes(value))) for number, value in model if number == 8]
            (body,) = (_bytes(value) for number, value in model if number == 7)
            nodes = [_node(_bytes(value)) for number, value in _fields(body) if number == 1]
            tensors = [_tensor(_bytes(value)) for number, value in _fields(body) if number == 5]
        except (IndexError, struct.error, UnicodeDecodeError) as error:
            raise ValueError(f"the file is cut off: {error}") from error
        versions = [int(o.get(2, 0)) for o in opsets if not o.get(1)]
        constants = {name: array for name, array in tensors if array is not None}
        return cls({out: node for node in nodes for out in node.outputs if out}, constants, max(versions, default=0))


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of a protobuf message: an integer, or its bytes; https://protobuf.dev/programming-guides/encoding/"""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind not in {1, 2, 5}:
            raise ValueError(f"wire type {kind} is none that ONNX has")
        size, at = _varint(data, at) if kind == 2 else (8 if kind == 1 else 4, at)
        if at + size > len(data):
            raise ValueError("a field ends beyond its message")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """(value, where the next one begins)."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode()


def _node(data: memoryview) -> Node:
    found: dict[int, list[int | memoryview]] = {}
    for number, value in _fields(data):
        found.setdefault(number, []).append(value)
    names = [tuple(_text(v) for v in found.get(number, ())) for number in (1, 2)]
    op_type, domain = ("".join(_text(v) for v in found.get(number, ())[-1:]) for number in (4, 7))
    return Node(op_type, domain, names[0], names[1], dict(_attribute(_bytes(v)) for v in found.get(5, ())))


def _attribute(data: memoryview) -> tuple[str, Attribute]:
    name, value = "", None
    ints: list[int] = []
    strings: list[bytes] = []
    one: Attribute = None
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            one = float(struct.unpack("<f", _bytes(value))[0])
        elif number == 3:
            one = _signed(value)
        elif number == 4:
            one = bytes(_bytes(value))
        elif number == 5:
            one = _tensor(_bytes(value))[1]
        elif number == 8:
            ints += _integers(value)
        elif number == 9:
            strings.append(bytes(_bytes(value)))
    return name, ints or strings or one


def _signed(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("a message stands where a number should")
    return value - (1 << 64) if value >> 63 else value


def _integers(value: int | memoryview) -> list[int]:
    """One, or several that are packed."""
    if isinstance(value, int):
        return [_signed(value)]
    found, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        found.append(_signed(number))
    return found


def _tensor(data: memoryview) -> tuple[str, Array | None]:
    """(name, the array; None where it is of another dtype or in another file)."""
    shape: list[int] = []
    name, kind, raw, elsewhere = "", 0, memoryview(b""), False
    floats, integers = [], list[int]()
    for number, value in _fields(data):
        if number == 1:
            shape += _integers(value)
        elif number == 2:
            kind = _signed(value)
        elif number == 4:
            floats.append(np.frombuffer(_bytes(value), "<f4"))
        elif number == 7:
            integers += _integers(value)
        elif number == 8:
            name = _text(value)
        elif number == 9:
            raw = _bytes(value)
        elif number == 14:
            elsewhere = value != 0
    if kind not in _DTYPES or elsewhere:
        return name, None
    whole = (
        np.frombuffer(raw, _DTYPES[kind]) if raw else np.concatenate([*floats, np.array(integers, "<i8")]).astype(_DTYPES[kind])
    )
    return name, whole.reshape(shape)
