"""DeviceArena: the rows in the memory of the device, where its own kernel takes them out for a run and puts them back."""

import threading
from collections.abc import Callable, Sequence
from math import prod

import numpy as np
from statecell.spec import BATCH, StateSpec, TensorSpec
from statecell.tensor import Array

from statecell_server.arena.arena import INITIAL_SLOT, StateArena
from statecell_server.arena.plan import Plan
from statecell_server.errors import StateBudgetExceeded
from statecell_server.runtimes.device_memory import DeviceMemory
from statecell_server.runtimes.ort_session import Buffer, blamed, host
from statecell_server.runtimes.runtime import DeviceError
from statecell_server.runtimes.staging import Staging
from statecell_server.runtimes.stream import PLACE, Stream, stream

SLOTS = (TensorSpec("statecell.from", "int64", (BATCH,)), TensorSpec("statecell.to", "int64", (BATCH,)))
"""The arrays of a plan that say where the rows of a run come from, and where they end; -1: nowhere."""
CHUNK = 16 << 20
"""Bytes of rows that cross the bus at once, to be set or read from outside."""


class DeviceArena(StateArena):
    """A step takes the numbers of slots to the device; rows cross the bus only to be set or read from outside."""

    def __init__(
        self,
        states: Sequence[StateSpec],
        memory: int,
        rows: int,
        staging: Staging,
        run: Callable[[Plan], None],
        moved: Callable[[], None],
    ) -> None:
        """`run`: the runtime's; `moved` is called when the arenas are others. Raises StateBudgetExceeded, DeviceError."""
        super().__init__(states, memory, rows)
        self._staging, self._run, self._moved = staging, run, moved
        self._outside = Outside(self.states, stream(staging.stream.device))
        self._memories = self._allocate(self.capacity)
        self._slots = self.capacity  # that there is memory for
        self.write([INITIAL_SLOT], [s.fresh() for s in self.states])

    def _allocate(self, slots: int) -> list[DeviceMemory]:
        """An arena for each state: [slots, *lead, *rest] of a state of shape [*lead, "batch", *rest]. Raises DeviceError.

        So all of a slot is in one place, and growing is appending.
        """
        return [DeviceMemory(self._staging.stream.device, slots * s.tensor.row_bytes) for s in self.states]

    def reserve(self, capacity: int) -> None:
        if self._slots >= capacity:
            return
        try:
            grown = self._allocate(capacity)
        except DeviceError as error:
            missing = capacity - self._slots
            raise StateBudgetExceeded(f"{error}; --state-memory promises more than there is", rows=missing) from error
        for new, old in zip(grown, self._memories, strict=True):
            new.begin_with(old)
        self._memories, self._slots = grown, capacity  # who reads from the old ones holds them
        self._moved()

    @property
    def memories(self) -> Sequence[DeviceMemory]:
        """Of each state, [slots, *lead, *rest] of a state of shape [*lead, "batch", *rest]; others after it has grown."""
        return self._memories

    def rows(self, batch: int, slots: Sequence[Array]) -> "PlanRows":
        """Those of a plan of `batch` rows, whose SLOTS are these arrays. Raises as Staging.mirror does."""
        return PlanRows(self.states, self._memories, self._staging, batch, slots)

    def run(self, plan: Plan, sources: Sequence[int], slots: Sequence[int]) -> None:
        self._within(sources)
        self._within(slots)
        reads, writes = plan.states
        reads[: len(sources)], reads[len(sources) :] = sources, INITIAL_SLOT
        writes[: len(slots)], writes[len(slots) :] = slots, -1
        self._run(plan)

    def write(self, slots: Sequence[int], states: Sequence[Array]) -> None:
        self._within(slots)
        self._outside.write(self._memories, slots, states)

    def read(self, slots: Sequence[int]) -> list[Array]:
        self._within(slots)
        return self._outside.read(self._memories, slots)

    def _within(self, slots: Sequence[int]) -> None:
        """Beyond the arena a device reads what is there and writes to it, and says nothing."""
        assert 0 <= min(slots) <= max(slots) < self._slots, f"slots {min(slots)} to {max(slots)} of {self._slots}"


class PlanRows:
    """The states of a plan's runs, in buffers that all plans of a runtime share."""

    def __init__(
        self,
        states: Sequence[StateSpec],
        memories: Sequence[DeviceMemory],
        staging: Staging,
        batch: int,
        slots: Sequence[Array],
    ) -> None:
        device = staging.stream.device
        self._stream, self._batch = staging.stream, batch
        self._held = [*memories]
        self.inputs: dict[str, Buffer] = {}
        self.outputs: dict[str, Buffer] = {}
        self.slots = {tensor.name: host(array) for tensor, array in zip(SLOTS, slots, strict=True)}
        for state in states:
            shape, dtype = state.sized(batch=batch), np.dtype(state.dtype)
            for name, side in ((state.input, self.inputs), (state.output, self.outputs)):
                buffer = staging.mirror(f"state:{name}", prod(shape) * dtype.itemsize)
                self._held.append(buffer)
                side[name] = Buffer(device.kind, device.index, dtype.type, shape, buffer.address)
        numbers = [staging.mirror(tensor.name, 8 * batch) for tensor in SLOTS]
        self._held += numbers
        self._from, self._to = (memory.address for memory in numbers)
        self._gathered = _places(states, memories, [b.address for b in self.inputs.values()])
        self._scattered = _places(states, memories, [b.address for b in self.outputs.values()])
        self._tables = [_table(staging.stream, known) for known in (self._gathered, self._scattered)]

    def gather(self) -> None:
        """Begins to fill the inputs."""
        self._stream.move(self._tables[0], self._gathered, self._from, self._batch, into_arena=False)

    def scatter(self) -> None:
        """Begins to empty the outputs."""
        self._stream.move(self._tables[1], self._scattered, self._to, self._batch, into_arena=True)


class Outside:
    """Rows that are set and read from outside of runs, by any thread: one at a time, on a stream beside that of the runs."""

    def __init__(self, states: Sequence[StateSpec], beside: Stream) -> None:
        self._states, self._stream = states, beside
        self._lock = threading.Lock()
        self._chunk = max(1, CHUNK // max(sum(s.tensor.row_bytes for s in states), 1))  # rows
        self._room = 0
        self._table = DeviceMemory(beside.device, len(states) * PLACE.itemsize)
        self._known = beside.array(len(states) * PLACE.itemsize, "uint8").view(PLACE)

    def write(self, memories: Sequence[DeviceMemory], slots: Sequence[int], states: Sequence[Array]) -> None:
        """Raises StateBudgetExceeded, DeviceLost."""
        with self._lock:
            for first in range(0, len(slots), self._chunk):
                part = slots[first : first + self._chunk]
                arrays = self._arrays(len(part))
                for state, array, source in zip(self._states, arrays, states, strict=True):
                    np.copyto(array, _rows(source, state.batch_axis, first, len(part)))
                self._move(memories, part, arrays, into_arena=True)

    def read(self, memories: Sequence[DeviceMemory], slots: Sequence[int]) -> list[Array]:
        """Raises StateBudgetExceeded, DeviceLost."""
        found = [np.empty(s.sized(batch=len(slots)), s.dtype) for s in self._states]
        with self._lock:
            for first in range(0, len(slots), self._chunk):
                part = slots[first : first + self._chunk]
                arrays = self._arrays(len(part))
                self._move(memories, part, arrays, into_arena=False)
                for state, array, target in zip(self._states, arrays, found, strict=True):
                    np.copyto(_rows(target, state.batch_axis, first, len(part)), array)
        return found

    def _arrays(self, rows: int) -> list[Array]:
        """One a state, of its own shape, that the device reads and writes by itself."""
        if rows > self._room:
            self._room = min(self._chunk, max(rows, 2 * self._room))
            self._buffers = [self._stream.array(self._room * prod(s.sized()), s.dtype) for s in self._states]
            self._numbers = self._stream.array(self._room, "int64")
            self._slots = DeviceMemory(self._stream.device, 8 * self._room)
        shapes = [s.sized(batch=rows) for s in self._states]
        return [buffer[: prod(shape)].reshape(shape) for buffer, shape in zip(self._buffers, shapes, strict=True)]

    def _move(
        self, memories: Sequence[DeviceMemory], slots: Sequence[int], arrays: Sequence[Array], *, into_arena: bool
    ) -> None:
        flow = self._stream
        self._numbers[: len(slots)] = slots
        self._known[...] = _places(self._states, memories, [array.ctypes.data for array in arrays])
        try:
            flow.enter()
            flow.copy(self._slots.address, self._numbers.ctypes.data, 8 * len(slots))
            flow.copy(self._table.address, self._known.ctypes.data, self._known.nbytes)
            flow.move(self._table, self._known, self._slots.address, len(slots), into_arena=into_arena)
            flow.wait()
        except Exception as error:
            raise blamed(error, flow.device) from error


def _rows(array: Array, axis: int | None, first: int, count: int) -> Array:
    """A view."""
    return array if axis is None else array[(slice(None),) * axis + (slice(first, first + count),)]


def _places(states: Sequence[StateSpec], memories: Sequence[DeviceMemory], addresses: Sequence[int]) -> Array:
    """PLACE for each state."""
    places = np.zeros(len(states), PLACE)
    for place, state, memory, address in zip(places, states, memories, addresses, strict=True):
        lead = prod(int(size) for size in state.shape[: state.batch_axis or 0])
        place["arena"], place["run"], place["lead"], place["bytes"] = (
            memory.address,
            address,
            lead,
            state.tensor.row_bytes // lead,
        )
    return places


def _table(flow: Stream, known: Array) -> DeviceMemory:
    memory, staged = DeviceMemory(flow.device, known.nbytes), flow.array(known.nbytes, "uint8")
    staged[...] = known.view(np.uint8)
    flow.enter()
    flow.copy(memory.address, staged.ctypes.data, known.nbytes)
    flow.wait()
    return memory
