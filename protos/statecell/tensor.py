"""Tensors between NumPy and the wire, without a copy where NumPy allows it."""

import math
import sys
from typing import Any

import numpy as np

from statecell.v1 import tensor_pb2

Array = np.ndarray[Any, Any]

MOST_AXES = 32
"""Of a tensor on the wire."""

_DTYPES: dict[int, np.dtype[Any]] = {
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    tensor_pb2.DATA_TYPE_FLOAT64: np.dtype("<f8"),
    tensor_pb2.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    tensor_pb2.DATA_TYPE_INT64: np.dtype("<i8"),
    tensor_pb2.DATA_TYPE_INT32: np.dtype("<i4"),
    tensor_pb2.DATA_TYPE_INT16: np.dtype("<i2"),
    tensor_pb2.DATA_TYPE_INT8: np.dtype("i1"),
    tensor_pb2.DATA_TYPE_UINT8: np.dtype("u1"),
    tensor_pb2.DATA_TYPE_BOOL: np.dtype("?"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("statecell needs a little-endian machine: tensors travel as little-endian bytes")


class TensorError(ValueError):
    """A tensor on the wire contradicts itself. The sender's fault: its shape, dtype and data must agree."""


def pack(name: str, array: Array, into: tensor_pb2.Tensor | None = None) -> tensor_pb2.Tensor:
    """`array` as a Tensor; `into`: one that is in its message already. Raises TensorError where the wire has no such dtype."""
    code = _CODES.get(array.dtype)
    if code is None:
        known = ", ".join(sorted(dtype.name for dtype in _CODES))
        raise TensorError(f"tensor {name!r} has dtype {array.dtype}, expected one of {known}")
    tensor = tensor_pb2.Tensor() if into is None else into
    tensor.name, tensor.dtype, tensor.data = name, code, array.tobytes()  # type: ignore[assignment]
    tensor.shape.extend(array.shape)
    return tensor


def unpack(tensor: tensor_pb2.Tensor) -> Array:
    """The tensor's array: a read-only view on the message's bytes. Raises TensorError."""
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise TensorError(f"tensor {tensor.name!r} has dtype code {tensor.dtype}, expected one of {sorted(_DTYPES)}")
    if len(tensor.shape) > MOST_AXES:
        raise TensorError(f"tensor {tensor.name[:80]!r} has {len(tensor.shape)} axes, the most is {MOST_AXES}")
    shape, data = tensor.shape[:], tensor.data
    try:
        if math.prod(shape) * dtype.itemsize == len(data):
            return np.ndarray(shape, dtype, data)
    except ValueError:  # sizes that NumPy does not take: negative ones, too many, or too large
        pass
    raise TensorError(f"tensor {tensor.name!r} says {dtype.name}{shape} but has {len(data)} bytes of data")
