"""Step: one request to advance sessions. Batch: the steps that share a run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

from statecell.tensor import Array

from statecell_server.batching.inputs import Inputs
from statecell_server.errors import StatecellError
from statecell_server.sessions.reply import Reply
from statecell_server.sessions.session import Session


class Waiter(Protocol):
    """Whoever is to be told that a step is over."""

    def settle(self) -> None:
        """Called on the event loop, once a step."""

    def awaits(self, step: "Step", position: int) -> bool:
        """Whether it waits for what comes of the session at `position`."""


@dataclass(slots=True, eq=False)
class Step:
    """One request to advance one or several sessions by the same number of time steps, their rows stacked.

    Nothing of a session changes until the step is committed: `slots` are the rows that it works on.
    """

    sessions: Sequence[Session]
    inputs: Inputs
    starts: list[int]  # step_index of each session before the step
    cuttable: bool
    repeatable: bool = False  # step_index was sent: the reply is kept for a retry
    waiters: list[Waiter] = field(default_factory=list)
    errors: dict[int, StatecellError] = field(default_factory=dict)  # by position in sessions; the others go on
    fences: dict[int, bytes] = field(default_factory=dict)  # by position: of the records in the store that hold the result
    blocked: int = 0  # sessions that have an earlier step to finish
    done: int = 0  # time steps run so far
    sources: Sequence[int] = ()  # slots to read: the sessions', from the second run on those that it wrote before
    loads: Sequence[tuple[Sequence[int], list[Array]]] = ()  # (slots, states) to be written first
    slots: Sequence[int] = ()  # slots to write
    spent: Sequence[int] = ()  # slots of its own that nobody needs when the run is over
    outputs: Sequence[Array] = ()
    replies: Sequence[bytes] = ()  # if it is repeatable: what each session is to keep of them
    places: dict[Session, int] | None = None  # both made when they are first asked for
    first_rows: Sequence[int] = ()
    finished: bool = False
    running: bool = False
    cost: int = 0  # bytes of its inputs and outputs, which count for as long as it waits
    queued: float = 0.0  # time.perf_counter() when it, or the first of its rows, began to wait
    writing: bool = False  # its result is on the way to the store: it may be committed though nobody waits any more

    @property
    def remaining(self) -> int:
        return self.inputs.seq_len - self.done

    @property
    def failed(self) -> bool:
        """Whether there is no session left that it could advance."""
        return len(self.errors) == len(self.sessions)

    @property
    def callers(self) -> int:
        """Requests that the step answers, repeated ones aside."""
        return 1

    @property
    def keeps_replies(self) -> bool:
        """Whether its outputs are wanted as bytes, session by session."""
        return self.repeatable

    @property
    def batches(self) -> Sequence[int]:
        """The rows of each session."""
        return (1,) * len(self.sessions) if len(self.sessions) == self.inputs.rows else [s.batch for s in self.sessions]

    def slots_of_each(self) -> Iterable[tuple[int, ...]]:
        """The slots to write, session by session; none where it never came so far as to have any."""
        if len(self.slots) == len(self.sessions):
            return zip(self.slots)
        stops = accumulate(self.batches)
        return [tuple(self.slots[stop - batch : stop]) for batch, stop in zip(self.batches, stops, strict=True)]

    def position_of(self, session: Session) -> int:
        """Where the session is in `sessions`."""
        if self.places is None:
            self.places = {session: position for position, session in enumerate(self.sessions)}
        return self.places[session]

    def first_row(self, position: int) -> int:
        """Where the rows of the session at `position` begin."""
        if not self.first_rows:
            self.first_rows = [0, *accumulate(self.batches)]
        return self.first_rows[position]

    def lost(self, session: Session) -> bool:
        """Whether it is known that the session will not advance by it."""
        return bool(self.errors) and self.position_of(session) in self.errors

    def start_of(self, session: Session) -> int:
        return self.starts[self.position_of(session)]

    def stop_of(self, session: Session) -> int:
        return self.start_of(session) + self.inputs.seq_len

    def reply_of(self, session: Session) -> Reply:
        """Of a step that was committed."""
        position = self.position_of(session)
        return Reply(self.starts[position], self.inputs.seq_len, self.outputs, self.first_row(position))

    def fail(self, session: Session, error: StatecellError) -> None:
        """The session will not advance, and so none of the steps that it has queued behind this one."""
        self.errors.setdefault(self.position_of(session), error)

    def fail_all(self, error: StatecellError) -> None:
        self.errors = dict.fromkeys(range(len(self.sessions)), error)


@dataclass(slots=True)
class Batch:
    """Steps that take their next `seq_len` time steps in one run."""

    steps: list[Step]
    seq_len: int
    seconds: float = 0.0  # that the run took

    @property
    def rows(self) -> int:
        return sum([step.inputs.rows for step in self.steps])
