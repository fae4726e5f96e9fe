"""HostArena: the rows in NumPy arrays, beside whatever runs the model."""

from collections.abc import Callable, Sequence

import numpy as np
from statecell.spec import StateSpec
from statecell.tensor import Array

from statecell_server.arena.arena import INITIAL_SLOT, StateArena
from statecell_server.arena.plan import Plan


class HostArena(StateArena):
    """Gather, run, scatter."""

    def __init__(self, states: Sequence[StateSpec], memory: int, rows: int, run: Callable[[Plan], None]) -> None:
        """`run`: the runtime's."""
        super().__init__(states, memory, rows)
        self._run = run
        self._axes = [s.batch_axis for s in states]
        self._leads = [(slice(None),) * (axis or 0) for axis in self._axes]
        # A state of shape [layers, "batch", hidden] is kept as [layers, slots, hidden]: one copy a layer and batch.
        self._arrays = [self._rows(s, self.capacity) for s in states]

    @staticmethod
    def _rows(state: StateSpec, rows: int) -> Array:
        # A state without rows (one session at a time) has its slots on an axis put in front.
        shape = (rows, *state.sized()) if state.batch_axis is None else state.sized(batch=rows)
        array = np.zeros(shape, state.dtype)  # of which the system gives only what is written to
        array[(slice(None),) * (state.batch_axis or 0) + (INITIAL_SLOT,)] = state.initial  # all others are written before read
        return array

    def reserve(self, capacity: int) -> None:
        for i, (state, axis) in enumerate(zip(self.states, self._axes, strict=True)):
            old = self._arrays[i]
            have = old.shape[axis or 0]
            if have < capacity:
                new = self._rows(state, capacity)
                np.moveaxis(new, axis or 0, 0)[:have] = np.moveaxis(old, axis or 0, 0)
                self._arrays[i] = new

    def run(self, plan: Plan, sources: Sequence[int], slots: Sequence[int]) -> None:
        missing = plan.batch - len(sources)
        self._gather([*sources, *[INITIAL_SLOT] * missing] if missing else sources, plan.states)
        self._run(plan)
        self.write(slots, plan.next_states)

    def _gather(self, slots: Sequence[int], out: Sequence[Array]) -> None:
        rows = _index(slots)
        for array, axis, lead, target in zip(self._arrays, self._axes, self._leads, out, strict=True):
            if axis is None:
                target[...] = array[slots[0]]
            elif isinstance(rows, slice):
                target[...] = array[(*lead, rows)]
            else:
                array.take(rows, axis=axis, out=target, mode="clip")

    def write(self, slots: Sequence[int], states: Sequence[Array]) -> None:
        rows, count = _index(slots), len(slots)
        for array, axis, lead, source in zip(self._arrays, self._axes, self._leads, states, strict=True):
            if axis is None:
                array[slots[0]] = source
            else:
                array[(*lead, rows)] = source if source.shape[axis] == count else source[(*lead, slice(count))]

    def read(self, slots: Sequence[int]) -> list[Array]:
        out = [np.empty(s.sized(batch=len(slots)), s.dtype) for s in self.states]
        self._gather(slots, out)
        return out


def _index(slots: Sequence[int]) -> slice | Array:
    """The slots as NumPy likes them; as a slice where they lie side by side, which is three times as fast."""
    first, count = slots[0], len(slots)
    if count == 1 or (slots[-1] - first == count - 1 and list(slots) == list(range(first, first + count))):
        return slice(first, first + count)
    return np.array(slots, np.intp)
