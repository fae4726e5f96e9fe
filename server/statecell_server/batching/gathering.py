"""Gathering: requests of one row and one time step that come one by one are one Step when their batch is launched."""

import logging
from collections.abc import Sequence
from math import prod
from typing import Protocol

import numpy as np
from statecell.spec import ModelSpec, TensorSpec
from statecell.tensor import Array

from statecell_server.batching.inputs import Inputs
from statecell_server.batching.step import Step
from statecell_server.errors import StatecellError, StepOutOfOrder
from statecell_server.sessions.session import Session

log = logging.getLogger(__name__)

ROW = {"seq_len": 1, "batch": 1}
ROW_BYTES = 1 << 16
"""Of a row's inputs and outputs: what has more gains nothing by being gathered, and is counted step by step."""


class Row(Protocol):
    """Whoever is to be told what came of one row."""

    def moved(self, reply: bytes, step_index: int) -> None:
        """The session is at `step_index`; `reply` has its outputs, one after the other, as Replies cuts them."""

    def refused(self, error: StatecellError) -> None:
        """The session is as it was."""


class RowLayout:
    """What one row of one time step looks like: of a model with one input, whose rows lie side by side in all tensors."""

    def __init__(self, spec: ModelSpec) -> None:
        (tensor,) = spec.inputs
        assert tensor.batch_axis is not None, "its rows can be stacked"
        self.name = tensor.name
        self.dtype = np.dtype(tensor.dtype)
        self.shape = tensor.sized(**ROW)
        self.nbytes = prod(self.shape) * self.dtype.itemsize
        self.outputs = [(t, t.sized(**ROW), prod(t.sized(**ROW)) * np.dtype(t.dtype).itemsize) for t in spec.outputs]
        self.cost = self.nbytes + sum(nbytes for _, _, nbytes in self.outputs)
        self._axis = tensor.batch_axis

    def stack(self, rows: Sequence[bytes]) -> Array:
        """The rows as one array."""
        shape = (*self.shape[: self._axis], len(rows), *self.shape[self._axis + 1 :])
        return np.frombuffer(b"".join(rows), self.dtype).reshape(shape)

    @staticmethod
    def of(spec: ModelSpec) -> "RowLayout | None":
        """None where rows cannot be put side by side without moving their elements, or are large."""
        tensors = (*spec.inputs, *spec.outputs)
        fits = len(spec.inputs) == 1 and all(map(_leads, tensors)) and all(s.batch_axis is not None for s in spec.states)
        layout = RowLayout(spec) if fits else None
        return layout if layout is not None and layout.cost <= ROW_BYTES else None


def _leads(tensor: TensorSpec) -> bool:
    """Whether nothing but the time axis and axes of 1 are in front of the batch axis."""
    return tensor.batch_axis is not None and prod(tensor.sized(**ROW)[: tensor.batch_axis]) == 1


class GatheredStep(Step):
    """A Step that grows until it is sealed. It waits for itself, and tells each row what came of it."""

    __slots__ = ("_data", "_rows")

    def __init__(self, *, cuttable: bool, repeatable: bool) -> None:
        super().__init__([], Inputs([], 1, 0), [], cuttable, repeatable)
        self.waiters.append(self)
        self._rows: list[Row] = []
        self._data: list[bytes] = []

    @property
    def callers(self) -> int:
        return len(self._rows)

    @property
    def keeps_replies(self) -> bool:
        return True

    def add(self, session: Session, start: int, data: bytes, row: Row) -> int:
        """One more row. Its position."""
        position = len(self._rows)
        self.sessions.append(session)  # type: ignore[attr-defined]
        self.starts.append(start)
        self._data.append(data)
        self._rows.append(row)
        if self.places is not None:
            self.places[session] = position
        return position

    def seal(self, layout: RowLayout) -> None:
        """No more rows from now on."""
        self.inputs = Inputs([layout.stack(self._data)], 1, len(self._data))
        self._data = []

    def cancel(self, position: int) -> None:
        """Nobody waits for this row: what has not been written or committed will not be, unless a repeat waits for it."""
        if self.finished or self.writing or any(waiter.awaits(self, position) for waiter in self.waiters):
            return
        session = self.sessions[position]
        self.fail(session, StepOutOfOrder(f"a step of session {session.id} was given up", session_id=session.id))

    def awaits(self, _: Step, position: int) -> bool:  # noqa: ARG002
        """Rows speak for themselves."""
        return False

    def settle(self) -> None:
        errors, replies, starts = self.errors, self.replies, self.starts
        rows, self._rows = self._rows, []  # they may hold this step
        for position, row in enumerate(rows):
            error = errors.get(position) if errors else None
            try:
                if error is None:
                    row.moved(replies[position], starts[position] + 1)
                else:
                    row.refused(error)
            except Exception:  # its own call's to suffer, and nobody else's
                log.exception("an answer failed")
