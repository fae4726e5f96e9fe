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


class Waiter(Protocol):
    """Whoever is to be told that a step is over."""

    def settle(self) -> None:
        """Called on the event loop, once a step."""


@dataclass(slots=True, eq=False)
class Step:
    """One request to advance one or several sessions by the same number of time steps, their rows stacked.

    Nothing of a session changes until the step is committed: `slots` are the rows that it works on.
    """

    sessions: list[Session]
    inputs: Inputs
    starts: list[int]  # step_index of each session before the step
    epochs: list[int]
    cuttable: bool
    repeatable: bool = False  # step_index was sent: the reply is kept for a retry
    waiters: list[Waiter] = field(default_factory=list)
    blocked: int = 0  # sessions that have an earlier step to finish
    done: int = 0  # time steps run so far
    sources: list[int] = field(default_factory=list)  # slots to read: the sessions', from the second run on its own
    loads: list[tuple[list[int], list[Array]]] = field(default_factory=list)  # (slots, states) to be written first
    slots: list[int] = field(default_factory=list)  # slots to write
    outputs: list[Array] = field(default_factory=list)
    errors: dict[int, StatecellError] = field(default_factory=dict)  # by position in sessions
    fences: dict[int, bytes] = field(default_factory=dict)  # by position: of the records in the store that hold the result
    finished: bool = False
    running: bool = False

    @property
    def remaining(self) -> int:
        return self.inputs.seq_len - self.done

    def start_of(self, session: Session) -> int:
        return self.starts[self.sessions.index(session)]

    def stop_of(self, session: Session) -> int:
        return self.start_of(session) + self.inputs.seq_len

    def reply_of(self, session: Session) -> Reply:
        """Of a step that was committed."""
        position = self.sessions.index(session)
        first_row = sum(s.batch for s in self.sessions[:position])
        return Reply(self.starts[position], self.starts[position] + self.inputs.seq_len, self.outputs, first_row)


@dataclass(slots=True)
class Batch:
    """Steps that take their next `seq_len` time steps in one run."""

    steps: list[Step]
    seq_len: int


class Scheduler:
    """Steps in the order of their arrival, those of one session one after the other.

    Single time steps go first and alternate with runs of longer requests, so that neither waits for more than one run of the
    other. Belongs to the event loop.
    """

    def __init__(self, spec: ModelSpec, max_batch: int, max_queue: int) -> None:
        self.max_queue = max_queue
        self.waiting = 0  # steps that were added and are not finished
        self._max_rows = max_batch if self._batches(spec) else 1
        self._single: deque[Step] = deque()
        self._long: deque[Step] = deque()
        self._turn_of_long = False

    @staticmethod
    def _batches(spec: ModelSpec) -> bool:
        tensors = (*spec.outputs, *(s.tensor for s in spec.states))
        return spec.has_batch and all(t.batch_axis is not None for t in tensors)

    def add(self, step: Step) -> None:
        """Queues the step behind the earlier ones of its sessions. Raises QueueFull."""
        if self.waiting >= self.max_queue:
            raise QueueFull(f"{self.waiting} steps wait, the most is {self.max_queue}", waiting=self.waiting)
        self.waiting += 1
        for session in step.sessions:
            if session.pending:
                session.pending.append(step)
                step.blocked += 1
            else:
                session.pending = [step]
        if not step.blocked:
            self._push(step)

    def _push(self, step: Step) -> None:
        (self._single if step.remaining == 1 else self._long).append(step)

    def next_batch(self) -> Batch | None:
        """What runs next, or None if nothing waits."""
        single = self._single and not (self._turn_of_long and self._long)
        queue = self._single if single else self._long
        while queue and queue[0].finished:
            queue.popleft()
        if not queue:
            return self.next_batch() if self._single or self._long else None
        self._turn_of_long = bool(single)
        steps = self._take(queue)
        for step in steps:
            step.running = True
        if not steps[0].cuttable:
            return Batch(steps, steps[0].remaining)
        return Batch(steps, min(RUN_LENGTH, *(step.remaining for step in steps)))

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
            pending: Sequence[Step] = session.pending or ()
            first = bool(pending) and pending[0] is step
            session.pending = [other for other in pending if other is not step] or None
            if first and session.pending:
                self._unblock(session.pending[0])

    def _unblock(self, step: Step) -> None:
        step.blocked -= 1
        if not step.blocked:
            self._push(step)
