"""Scheduler: which steps run together next. A Step is one request; a Batch is one run."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from statecell.spec import ModelSpec
from statecell.tensor import Array

from statecell_server.errors import QueueFull, StatecellError
from statecell_server.inputs import Inputs
from statecell_server.sessions import Reply, Session

RUN_LENGTH = 32
"""Time steps of a run at most; a longer request is cut. Within a run a time step costs 2 to 6 times less than alone."""
QUIET_BATCHES = 16
"""After so many batches without single steps nobody is waiting for one, and runs may be as long as they like."""


class Waiter(Protocol):
    """Whoever is to be told that a step is over."""

    def settle(self) -> None:
        """Called on the event loop, once a step."""


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
    slots: list[int] = field(default_factory=list)  # slots to write
    spent: Sequence[int] = ()  # slots of its own that nobody needs when the run is over
    outputs: list[Array] = field(default_factory=list)
    places: dict[Session, int] = field(default_factory=dict)  # made when it is first asked for
    finished: bool = False
    running: bool = False
    writing: bool = False  # its result is on the way to the store: it may be committed though nobody waits any more

    @property
    def remaining(self) -> int:
        return self.inputs.seq_len - self.done

    @property
    def failed(self) -> bool:
        """Whether there is no session left that it could advance."""
        return len(self.errors) == len(self.sessions)

    def position_of(self, session: Session) -> int:
        """Where the session is in `sessions`."""
        if not self.places:
            self.places = {session: position for position, session in enumerate(self.sessions)}
        return self.places[session]

    def start_of(self, session: Session) -> int:
        return self.starts[self.position_of(session)]

    def stop_of(self, session: Session) -> int:
        return self.start_of(session) + self.inputs.seq_len

    def reply_of(self, session: Session) -> Reply:
        """Of a step that was committed."""
        position = self.position_of(session)
        first_row = sum(s.batch for s in self.sessions[:position])
        return Reply(self.starts[position], self.inputs.seq_len, self.outputs, first_row)

    def fail(self, session: Session, error: StatecellError) -> None:
        """The session will not advance, and so none of the steps that it has queued behind this one."""
        self.errors.setdefault(self.position_of(session), error)


@dataclass(slots=True)
class Batch:
    """Steps that take their next `seq_len` time steps in one run."""

    steps: list[Step]
    seq_len: int


class Scheduler:
    """Steps in the order of their arrival, those of one session one after the other.

    Single time steps go first and alternate with runs of longer requests, so that neither waits for more than one run of the
    other. While single steps come, a run takes about as long as they do. Belongs to the event loop.
    """

    def __init__(self, spec: ModelSpec, max_batch: int, max_queue: int, run_length: int | None = None) -> None:
        """`max_batch`: rows that may share a run; 1 where every step is to run alone. `run_length`: its time steps at most."""
        self.max_queue = max_queue
        self._longest = run_length
        self.waiting = 0  # steps that were added and are not finished
        self._max_rows = max_batch if self._batches(spec) else 1
        self._single: deque[Step] = deque()
        self._long: deque[Step] = deque()
        self._turn_of_long = False
        self._quiet = 0  # batches since the last one of single steps
        self._single_seconds = 0.0  # of a run of one time step
        self._pace = 0.0  # seconds of a time step within a longer run

    @staticmethod
    def _batches(spec: ModelSpec) -> bool:
        tensors = (*spec.outputs, *(s.tensor for s in spec.states))
        return spec.has_batch and all(t.batch_axis is not None for t in tensors)

    def add(self, step: Step) -> None:
        """Queues the step behind the earlier ones of its sessions. Raises QueueFull."""
        if self.waiting >= self.max_queue:
            raise QueueFull(f"{self.waiting} steps wait, the most is {self.max_queue}", waiting=self.waiting)
        self.waiting += 1
        alone = (step,)
        for session in step.sessions:
            if session.pending:
                session.pending += alone
                step.blocked += 1
            else:
                session.pending = alone
        if not step.blocked:
            self._push(step)

    def _push(self, step: Step) -> None:
        (self._single if step.remaining == 1 else self._long).append(step)

    def next_batch(self) -> Batch | None:
        """What runs next, or None if nothing waits."""
        for queue in (self._single, self._long):
            while queue and queue[0].finished:
                queue.popleft()
        if not self._single and not self._long:
            return None
        single = bool(self._single) and not (self._turn_of_long and self._long)
        steps = self._take(self._single if single else self._long)
        for step in steps:
            step.running = True
        self._turn_of_long = single
        self._quiet = 0 if single else self._quiet + 1
        return Batch(steps, min(self._run_length(), *(s.remaining for s in steps)) if steps[0].cuttable else steps[0].remaining)

    def _run_length(self) -> int:
        if self._longest is not None:
            return self._longest
        if self._quiet > QUIET_BATCHES or not self._pace:
            return RUN_LENGTH
        return max(2, min(RUN_LENGTH, int(self._single_seconds / self._pace)))

    def took(self, batch: Batch, seconds: float) -> None:
        """The batch has run: how long runs take decides how long the next may be."""
        if batch.seq_len == 1:
            self._single_seconds += (seconds - self._single_seconds) / 8
        else:
            pace = seconds / batch.seq_len
            self._pace += (pace - self._pace) / 8 if self._pace else pace

    def _take(self, queue: deque[Step]) -> list[Step]:
        """The first step and those behind it that can share its run, out of the queue."""
        first = queue.popleft()
        steps, passed, rows = [first], [], first.inputs.rows
        while queue and rows < self._max_rows:
            step = queue.popleft()
            if step.finished:
                continue
            same = step.inputs.shared == first.inputs.shared and step.cuttable == first.cuttable
            fits = rows + step.inputs.rows <= self._max_rows
            if same and fits and (step.cuttable or step.remaining == first.remaining):
                steps.append(step)
                rows += step.inputs.rows
            else:
                passed.append(step)
        queue.extendleft(reversed(passed))
        return steps

    def ran(self, step: Step) -> None:
        """The step's run is over and more of its time steps are to come."""
        step.running = False
        self._push(step)

    def finish(self, step: Step) -> None:
        """The step is over, whatever came of it; the next ones of its sessions may run."""
        step.finished, step.running = True, False
        self.waiting -= 1
        for session in step.sessions:
            pending = session.pending
            if len(pending) == 1:
                session.pending = ()
                continue
            session.pending = tuple(other for other in pending if other is not step)
            if pending[0] is step:
                self._unblock(session.pending[0])

    def _unblock(self, step: Step) -> None:
        step.blocked -= 1
        if not step.blocked:
            self._push(step)
