"""StateArena: the states of all sessions of a model, a row each, in a few large arrays."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from statecell.spec import StateSpec
from statecell.tensor import Array

from statecell_server.arena.plan import Plan
from statecell_server.errors import StateBudgetExceeded

INITIAL_SLOT = 0
"""The row of a session that has not stepped yet: the model's own initial state. Never written, never freed."""


class StateArena(ABC):
    """Rows that are written once and then only read, until they are freed; where they are is the subclass's to know.

    A run reads slots and writes to others; committing it is naming the new ones, and failing is forgetting them. So a
    written row never changes: it can be read at any moment, by any thread, and be shared by forks.

    allocate, share and free belong to the event loop; reserve, write and run to whoever runs the model; read to everybody.
    """

    def __init__(self, states: Sequence[StateSpec], memory: int, rows: int = 256) -> None:
        """`memory`: bytes that the rows of idle sessions may take; of `rows` rows in flight, two more each are kept."""
        self.states = tuple(states)
        self.row_bytes = sum(s.tensor.row_bytes for s in states)
        self.budget = memory // max(self.row_bytes, 1)  # rows that sessions may hold
        if self.budget < 1:
            raise StateBudgetExceeded(f"a state takes {self.row_bytes} bytes, more than the {memory} of --state-memory")
        self._limit = 1 + self.budget + 2 * rows  # a run reads from slots of its own and writes to others
        self.capacity = min(self._limit, max(rows, 64))
        self._free: list[int] = []  # given back; those from _next on were never in use
        self._next = INITIAL_SLOT + 1
        self._shared: dict[int, int] = {}  # slot -> owners beyond the first

    @property
    def used(self) -> int:
        """Slots that hold a state."""
        return self._next - 1 - len(self._free)

    @property
    def room(self) -> int:
        """Slots that can still be allocated."""
        return self._limit - self._next + len(self._free)

    def allocate(self, count: int) -> list[int]:
        """`count` slots to write to. Raises StateBudgetExceeded."""
        free = self._free
        if count == 1 and free:
            return [free.pop()]
        again = min(count, len(free))
        fresh = count - again
        if fresh > self._limit - self._next:
            raise StateBudgetExceeded(
                f"no room for {count} more rows: all {self._limit} rows of {self.row_bytes} bytes are in use", rows=count
            )
        taken = free[len(free) - again :][::-1]
        del free[len(free) - again :]
        taken += range(self._next, self._next + fresh)
        self._next += fresh
        while self.capacity < self._next:
            self.capacity = min(self._limit, 2 * self.capacity)
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

    @abstractmethod
    def reserve(self, capacity: int) -> None:
        """Makes room for as many slots as allocate has promised. Raises StateBudgetExceeded where there is none."""

    @abstractmethod
    def run(self, plan: Plan, sources: Sequence[int], slots: Sequence[int]) -> None:
        """Runs the plan's inputs from the states in `sources`, and leaves the next states in `slots`.

        No slot may be a source too. Rows that only fill the plan up start anywhere and end nowhere. Raises RunError; then
        the sources are as they were, and the slots are not to be read.
        """

    @abstractmethod
    def write(self, slots: Sequence[int], states: Sequence[Array]) -> None:
        """Sets rows from outside: an array a state, of its own shape; rows of `states` beyond the slots are left out."""

    @abstractmethod
    def read(self, slots: Sequence[int]) -> list[Array]:
        """Copies of the rows of `slots`, an array a state, of its own shape with len(slots) as batch."""
