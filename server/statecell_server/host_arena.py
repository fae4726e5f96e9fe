"""HostArena: the rows in NumPy arrays, beside whatever runs the model."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from statecell.spec import StateSpec
from statecell.tensor import Array

from statecell_server.arena import INITIAL_SLOT, StateArena

if TYPE_CHECKING:
    from statecell_server.runtime import Plan


class HostArena(StateArena):
    """Gather, run, scatter."""

    def __init__(self, states: Sequence[StateSpec], memory: int, rows: int, run: "Callable[[Plan], None]") -> None:
        """`run`: the runtime's."""
        super().__init__(states, memory, rows)
        self._run = run
        self._axes = [s.batch_axis for s in states]
        # A state of shape [layers, "batch", hidden] is kept as [layers, slots, hidden]: one copy a layer and batch.
        self._arrays = [self._rows(s, self.capacity) for s in states]

    @staticmethod
    def _rows(state: StateSpec, rows: int) -> Array:
        # A state without rows (one session at a time) has its slots on an axis put in front.
        shape = (rows, *state.sized()) if state.batch_axis is None else state.sized(batch=rows)
        if state.initial:
            return np.full(shape, state.initial, state.dtype)
        return np.zeros(shape, state.dtype)  # of which the system gives only what is written to

    def reserve(self, capacity: int) -> None:
        for i, (state, axis) in enumerate(zip(self.states, self._axes, strict=True)):
            old = self._arrays[i]
            have = old.shape[axis or 0]
            if have < capacity:
                new = self._rows(state, capacity)
                np.moveaxis(new, axis or 0, 0)[:have] = np.moveaxis(old, axis or 0, 0)
                self._arrays[i] = new

    def run(self, plan: "Plan", sources: Sequence[int], slots: Sequence[int]) -> None:
        self._gather([*sources, *[INITIAL_SLOT] * (plan.batch - len(sources))], plan.states)
        self._run(plan)
        self.write(slots, plan.next_states)

    def _gather(self, slots: Sequence[int], out: Sequence[Array]) -> None:
        index = np.array(slots, np.intp)
        for array, axis, target in zip(self._arrays, self._axes, out, strict=True):
            if axis is None:
                np.copyto(target, array[slots[0]])
            else:
                array.take(index, axis=axis, out=target, mode="clip")

    def write(self, slots: Sequence[int], states: Sequence[Array]) -> None:
        rows: slice | list[int] = list(slots)
        if slots and rows == list(range(slots[0], slots[0] + len(slots))):
            rows = slice(slots[0], slots[0] + len(slots))
        for array, axis, source in zip(self._arrays, self._axes, states, strict=True):
            if axis is None:
                array[slots[0]] = source
            else:
                array[(slice(None),) * axis + (rows,)] = source[(slice(None),) * axis + (slice(len(slots)),)]

    def read(self, slots: Sequence[int]) -> list[Array]:
        out = [np.empty(s.sized(batch=len(slots)), s.dtype) for s in self.states]
        self._gather(slots, out)
        return out
