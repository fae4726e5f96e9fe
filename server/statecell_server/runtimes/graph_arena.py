"""GraphArena: the rows in the memory of the device, where the model's own graph reads and writes them."""

from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from statecell.spec import StateSpec
from statecell.tensor import Array

from statecell_server.arena.arena import INITIAL_SLOT, StateArena
from statecell_server.device import Device
from statecell_server.errors import StateBudgetExceeded
from statecell_server.runtimes.device_memory import DeviceMemory
from statecell_server.runtimes.ort_session import Binding, Buffer, host
from statecell_server.runtimes.runtime import DeviceError
from statecell_server.runtimes.state_graph import MOVED, arena, arena_shape, lead, next_arena, origin, unit

if TYPE_CHECKING:
    from statecell_server.runtimes.runtime import Plan


class GraphArena(StateArena):
    """A step gives the graph two vectors of slots; rows cross the bus only to be set or read from outside."""

    def __init__(
        self,
        states: Sequence[StateSpec],
        memory: int,
        rows: int,
        device: Device,
        mover: Any,
        run: "Callable[[Plan], None]",
        moved: Callable[[], None],
    ) -> None:
        """`mover`: a session of state_graph.mover on the device; `run`: the runtime's; `moved` is called when the buffers are
        others. Raises StateBudgetExceeded, DeviceError.
        """
        super().__init__(states, memory, rows)
        self._device, self._mover, self._run, self._moved = device, mover, run, moved
        # How many, and an arena for each state: replaced as one, and in the device's memory while anybody holds it.
        self._rows: tuple[int, list[DeviceMemory]] = self._allocate(self.capacity)
        # Of the rows that a slot has in an arena input: [*lead, 1], a lead each.
        self._offsets = [np.arange(prod(sizes)).reshape(*sizes, 1) for sizes in sorted({lead(s) for s in self.states})]
        self.write([INITIAL_SLOT], [s.fresh() for s in self.states])

    def _allocate(self, slots: int) -> tuple[int, list[DeviceMemory]]:
        """Raises DeviceError, DeviceLost. The last slot is where the rows end that only fill a run up."""
        return slots + 1, [DeviceMemory(self._device, (slots + 1) * s.fresh().nbytes) for s in self.states]

    def buffers(self) -> list[Buffer]:
        """An arena for each state, as the model's graph has it."""
        rows, memories = self._rows
        return [self._buffer(s, memory, arena_shape(s, rows)) for s, memory in zip(self.states, memories, strict=True)]

    def _whole(self, rows: tuple[int, list[DeviceMemory]]) -> list[Buffer]:
        """An arena for each state, as the mover has it."""
        return [self._buffer(s, memory, (rows[0], *unit(s))) for s, memory in zip(self.states, rows[1], strict=True)]

    def _buffer(self, state: StateSpec, memory: DeviceMemory, shape: Sequence[int]) -> Buffer:
        return Buffer(self._device.kind, self._device.index, np.dtype(state.dtype).type, shape, memory.address)

    def reserve(self, capacity: int) -> None:
        old = self._rows
        have = old[0] - 1
        if have >= capacity:
            return
        try:
            new = self._allocate(capacity)
        except DeviceError as error:
            raise StateBudgetExceeded(f"{error}; --state-memory promises more than there is", rows=capacity - have) from error
        for before, memory in zip(old[1], new[1], strict=True):
            memory.begin_with(before)
        self._rows = new
        self._moved()

    def run(self, plan: "Plan", sources: Sequence[int], slots: Sequence[int]) -> None:
        last = self._rows[0] - 1
        _within(sources, last)
        _within(slots, last)
        fill = plan.batch - len(slots)
        reads = np.array([*sources, *[INITIAL_SLOT] * fill], np.int64)
        writes = np.array([*slots, *[last] * fill], np.int64)
        for offsets, read, written in zip(self._offsets, plan.states[::2], plan.states[1::2], strict=True):
            np.add(reads * offsets.size, offsets, out=read)
            np.add(writes * offsets.size, offsets, out=written[..., 0])
        self._run(plan)

    def write(self, slots: Sequence[int], states: Sequence[Array]) -> None:
        rows = [
            np.ascontiguousarray(array[None] if s.batch_axis is None else np.moveaxis(array, s.batch_axis, 0)[: len(slots)])
            for s, array in zip(self.states, states, strict=True)
        ]
        held = self._rows
        self._move([host(array) for array in rows], range(len(slots)), self._whole(held), slots)

    def read(self, slots: Sequence[int]) -> list[Array]:
        held = self._rows
        rows = [np.empty((len(slots), *unit(s)), s.dtype) for s in self.states]
        self._move(self._whole(held), slots, [host(array) for array in rows], range(len(slots)))
        return [
            array[0] if s.batch_axis is None else np.ascontiguousarray(np.moveaxis(array, 0, s.batch_axis))
            for s, array in zip(self.states, rows, strict=True)
        ]

    def _move(self, sources: Sequence[Buffer], origins: Sequence[int], targets: Sequence[Buffer], slots: Sequence[int]) -> None:
        """Rows `origins` of the sources to rows `slots` of the targets, by a run of a session that is any thread's to use."""
        _within(slots, targets[0].shape[0])
        _within(origins, sources[0].shape[0])
        taken, given = np.array(origins, np.int64), np.array(slots, np.int64)
        inputs = dict(zip(MOVED, (host(taken), host(given)), strict=True))
        inputs |= {origin(s): buffer for s, buffer in zip(self.states, sources, strict=True)}
        inputs |= {arena(s): buffer for s, buffer in zip(self.states, targets, strict=True)}
        outputs = {next_arena(s): buffer for s, buffer in zip(self.states, targets, strict=True)}
        Binding(self._mover, self._device, inputs, outputs, feed=False).run()


def _within(slots: Sequence[int], rows: int) -> None:
    """Beyond the arena a GPU reads zeros and writes to rows of others, and says nothing."""
    assert 0 <= min(slots) <= max(slots) < rows, f"slots {min(slots)} to {max(slots)} of {rows}"
