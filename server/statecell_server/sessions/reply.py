"""Reply: what a step gave a session; Replies keeps it as bytes, in case the step is sent again."""

from collections.abc import Sequence
from itertools import accumulate
from math import prod
from typing import NamedTuple

import numpy as np
from statecell.spec import TensorSpec
from statecell.tensor import Array


class Reply(NamedTuple):
    """Outputs in the spec's order, and which rows of them are the session's."""

    start: int  # step_index before the step
    seq_len: int
    outputs: Sequence[Array]
    first_row: int = 0


class Replies:
    """`replies.open(data, seq_len, batch)` gives back what `replies.cut` has made bytes of.

    A session holds its own rows and nothing else: an array is an object of 170 bytes beside its data, and a view would
    keep the whole run's outputs alive.
    """

    def __init__(self, outputs: Sequence[TensorSpec]) -> None:
        self._outputs = outputs
        self._dtypes = [np.dtype(t.dtype) for t in outputs]
        self._sizes = [
            (prod(t.sized()) * np.dtype(t.dtype).itemsize, t.time_axis is not None, t.batch_axis is not None) for t in outputs
        ]
        # Batch first, so that a session's rows lie in one piece. Swapping two axes is undone by swapping them again.
        self._orders = [_first(t.batch_axis or 0, len(t.shape)) for t in outputs]

    def size(self, seq_len: int, batch: int) -> int:
        """Bytes of the outputs of such a step."""
        return sum(nbytes * (seq_len if timed else 1) * (batch if batched else 1) for nbytes, timed, batched in self._sizes)

    def cut(self, outputs: Sequence[Array], batches: Sequence[int]) -> list[bytes]:
        """The replies to sessions of these batches, whose rows are stacked in `outputs`."""
        if len(outputs) == 1:
            return _cut(outputs[0].transpose(self._orders[0]).tobytes(), batches)
        parts = [_cut(array.transpose(order).tobytes(), batches) for array, order in zip(outputs, self._orders, strict=True)]
        return [b"".join(pieces) for pieces in zip(*parts, strict=True)]

    def open(self, data: bytes, seq_len: int, batch: int) -> list[Array]:
        """The outputs of one session: views on `data`."""
        arrays, offset = [], 0
        for tensor, dtype, order in zip(self._outputs, self._dtypes, self._orders, strict=True):
            sizes = tensor.sized(seq_len=seq_len, batch=batch)
            shape = [sizes[axis] for axis in order]
            array = np.frombuffer(data, dtype, int(np.prod(shape, dtype=np.int64)), offset)
            offset += array.nbytes
            arrays.append(array.reshape(shape).transpose(order))
        return arrays


def _first(axis: int, axes: int) -> tuple[int, ...]:
    """The order of axes in which `axis` and the first one have changed places."""
    order = list(range(axes))
    if order:
        order[0], order[axis] = axis, 0
    return tuple(order)


def _cut(data: bytes, batches: Sequence[int]) -> list[bytes]:
    if len(batches) == 1:
        return [data]
    rows = sum(batches)
    size = len(data) // rows
    if rows == len(batches):
        return [data[start : start + size] for start in range(0, len(data), size)]
    stops = list(accumulate(batch * size for batch in batches))
    return [data[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
