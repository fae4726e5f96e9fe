"""StateArena: the states of all sessions of a model, a row each, in a few large arrays."""

from collections.abc import Sequence

import numpy as np
from statecell.spec import StateSpec
from statecell.tensor import Array

from statecell_server.errors import StateBudgetExceeded

INITIAL_SLOT = 0
"""The row of a session that has not stepped yet: the model's own initial state. Never written, never freed."""


class StateArena:
    """Rows that are written once and then only read, until they are freed.

    A step reads its session's slots and writes to new ones; committing it is naming the new ones, and failing is forgetting
    them. So a committed row never changes: it can be read at any moment, by any thread, and be shared by forks.

    allocate, share and free belong to the event loop; reserve, gather and scatter to the model's compute thread.
    """

    def __init__(self, states: Sequence[StateSpec], memory: int, rows: int = 256) -> None:
        """`memory`: bytes that the rows of idle sessions may take; `rows` more are kept for those in flight."""
        self.states = tuple(states)
        self.row_bytes = sum(s.fresh().nbytes for s in states)
        self.budget = memory // max(self.row_bytes, 1)  # rows that sessions may hold
        if self.budget < 1:
            raise StateBudgetExceeded(f"a state takes {self.row_bytes} bytes, more than the {memory} of --state-memory")
        self._limit = 1 + self.budget + rows
        self._axes = [s.batch_axis for s in states]
        self.capacity = min(self._limit, max(rows, 64))
        self._free = list(range(self.capacity - 1, INITIAL_SLOT, -1))
        self._shared: dict[int, int] = {}  # slot -> owners beyond the first
        # A state of shape [layers, "batch", hidden] is kept as [layers, slots, hidden]: one copy a layer and batch.
        self._arrays = [self._rows(s, self.capacity) for s in states]

    @staticmethod
    def _rows(state: StateSpec, rows: int) -> Array:
        # A state without rows (one session at a time) has its slots on an axis put in front.
        shape = (rows, *state.sized()) if state.batch_axis is None else state.sized(batch=rows)
        if state.initial:
            return np.full(shape, state.initial, state.dtype)
        return np.zeros(shape, state.dtype)  # of which the system gives only what is written to

    @property
    def used(self) -> int:
        """Slots that hold a state."""
        return self.capacity - 1 - len(self._free)

    @property
    def room(self) -> int:
        """Slots that can still be allocated."""
        return self._limit - self.capacity + len(self._free)

    def allocate(self, count: int) -> list[int]:
        """`count` slots to write to. Raises StateBudgetExceeded."""
        while len(self._free) < count:
            capacity = min(self._limit, self.capacity * 2)
            if capacity == self.capacity:
                raise StateBudgetExceeded(
                    f"no room for {count} more rows: all {self._limit} rows of {self.row_bytes} bytes are in use", rows=count
                )
            self._free[:0] = range(capacity - 1, self.capacity - 1, -1)
            self.capacity = capacity
        taken = self._free[-count:][::-1] if count else []
        del self._free[len(self._free) - count :]
        return taken

    def share(self, slots: Sequence[int]) -> None:
        """One more owner for each of the slots."""
        for slot in slots:
            if slot != INITIAL_SLOT:
                self._shared[slot] = self._shared.get(slot, 0) + 1

    def free(self, slots: Sequence[int]) -> None:
        """One owner fewer for each of the slots."""
        if not self._shared:
            self._free += [slot for slot in reversed(slots) if slot != INITIAL_SLOT]
            return
        for slot in reversed(slots):
            if slot == INITIAL_SLOT:
                continue
            others = self._shared.get(slot, 0)
            if others > 1:
                self._shared[slot] = others - 1
            elif others:
                del self._shared[slot]
            else:
                self._free.append(slot)

    def reserve(self, capacity: int) -> None:
        """Makes the arrays as large as allocate has promised."""
        for i, (state, axis) in enumerate(zip(self.states, self._axes, strict=True)):
            old = self._arrays[i]
            have = old.shape[axis or 0]
            if have < capacity:
                new = self._rows(state, capacity)
                np.moveaxis(new, axis or 0, 0)[:have] = np.moveaxis(old, axis or 0, 0)
                self._arrays[i] = new

    def gather(self, slots: Sequence[int], out: Sequence[Array]) -> None:
        """Copies the rows of `slots` into `out`: an array a state, of its own shape with len(slots) as batch."""
        index = np.array(slots, np.intp)
        for array, axis, target in zip(self._arrays, self._axes, out, strict=True):
            if axis is None:
                np.copyto(target, array[slots[0]])
            else:
                array.take(index, axis=axis, out=target, mode="clip")

    def scatter(self, slots: Sequence[int], states: Sequence[Array]) -> None:
        """The reverse of gather; rows of `states` beyond the slots are left out."""
        rows: slice | list[int] = list(slots)
        if slots and rows == list(range(slots[0], slots[0] + len(slots))):
            rows = slice(slots[0], slots[0] + len(slots))
        for array, axis, source in zip(self._arrays, self._axes, states, strict=True):
            if axis is None:
                array[slots[0]] = source
            else:
                array[(slice(None),) * axis + (rows,)] = source[(slice(None),) * axis + (slice(len(slots)),)]

    def read(self, slots: Sequence[int]) -> list[Array]:
        """Copies of the rows of `slots`, an array a state."""
        out = [np.empty(s.sized(batch=len(slots)), s.dtype) for s in self.states]
        self.gather(slots, out)
        return out
