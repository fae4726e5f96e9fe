"""Scheduler: which steps run together next."""

from collections import deque
from time import perf_counter

from statecell.spec import ModelSpec

from statecell_server.batching.gathering import GatheredStep, Row, RowLayout
from statecell_server.batching.lines import Lines
from statecell_server.batching.step import Batch, Step
from statecell_server.errors import QueueFull
from statecell_server.sessions.budget import Budget
from statecell_server.sessions.session import Session

RUN_LENGTH = 32
"""Time steps of a run at most; a longer request is cut. Within a run a time step costs 2 to 6 times less than alone."""
QUIET_BATCHES = 16
"""After so many batches without single steps nobody is waiting for one, and runs may be as long as they like."""


class Scheduler:
    """Steps in the order of their arrival, those of one session one after the other.

    Single time steps go first and alternate with runs of longer requests, so that neither waits for more than one run of the
    other. While single steps come, a run takes about as long as they do. Belongs to the event loop.
    """

    def __init__(self, spec: ModelSpec, budget: Budget, max_batch: int, max_queue: int, run_length: int | None = None) -> None:
        """`budget`: what waiting steps cost counts against it.

        `max_batch`: rows that may share a run; 1 where every step is to run alone. `run_length`: its time steps at most.
        """
        self.max_queue = max_queue
        self.lines = Lines()
        self._budget = budget
        self._longest = run_length
        self.waiting = 0  # steps that were added and are not finished
        self.requests = 0  # that are over
        self.stepped = 0  # sessions that they were to advance, each counted once a request
        self.failed = 0  # those that were not advanced
        self.stacks = self._stacks(spec)
        self._max_rows = max_batch if self.stacks else 1
        self._cuttable = spec.streamable
        self.layout = RowLayout.of(spec) if self._max_rows > 1 else None  # of rows that can be gathered
        self._open: dict[bool, GatheredStep] = {}  # that grow until the next launch, by whether their replies are kept
        self._open_rows = 0
        self._single: deque[Step] = deque()
        self._long: deque[Step] = deque()
        self._turn_of_long = False
        self._quiet = 0  # batches since the last one of single steps
        self._single_seconds = 0.0  # of a run of one time step
        self._pace = 0.0  # seconds of a time step within a longer run

    @property
    def singles(self) -> int:
        """Single steps that wait, where nothing else does."""
        return 0 if self._long else len(self._single) + self._open_rows

    @staticmethod
    def _stacks(spec: ModelSpec) -> bool:
        """Whether several sessions can share a run at all: each must have rows of its own in everything that comes out."""
        tensors = (*spec.outputs, *(s.tensor for s in spec.states))
        return spec.has_batch and all(t.batch_axis is not None for t in tensors)

    def add(self, step: Step) -> None:
        """Queues the step behind the earlier ones of its sessions. Raises QueueFull, StateBudgetExceeded."""
        self._check_room()
        self._budget.check(step.cost)
        self._budget.used += step.cost
        self.waiting += 1
        step.queued = perf_counter()
        self.lines.join(step)
        if not step.blocked:
            self._push(step)

    def _check_room(self) -> None:
        if self.waiting >= self.max_queue:
            raise QueueFull(f"{self.waiting} steps wait, the most is {self.max_queue}", waiting=self.waiting)

    def gather(self, session: Session, step_index: int | None, data: bytes, row: Row) -> tuple[GatheredStep, int]:
        """A row of `layout`, for a session of one row with nothing in flight. Its step and position.

        Raises QueueFull, StateBudgetExceeded.
        """
        if self.waiting >= self.max_queue:
            self._check_room()
        assert self.layout is not None, "rows are gathered by it"
        cost, budget = self.layout.cost, self._budget
        if budget.used + cost > budget.limit:
            budget.check(cost)
        budget.used += cost
        repeatable = step_index is not None
        step = self._open.get(repeatable)
        if step is None or step.callers >= self._max_rows:
            self._seal()
            step = self._open[repeatable] = GatheredStep(cuttable=self._cuttable, repeatable=repeatable)
            step.queued = perf_counter()
        position = step.add(session, session.step_index, data, row)
        step.cost += cost
        self.lines.join_alone(step, session)
        self.waiting += 1
        self._open_rows += 1
        return step, position

    def _seal(self) -> None:
        """What was gathered waits to be run, as it is."""
        if self._open:
            assert self.layout is not None, "rows were gathered by it"
            for step in self._open.values():
                step.seal(self.layout)
                self._single.append(step)
            self._open.clear()
            self._open_rows = 0

    def _push(self, step: Step) -> None:
        (self._single if step.inputs.seq_len - step.done == 1 else self._long).append(step)

    def next_batch(self) -> Batch | None:
        """What runs next, or None if nothing waits."""
        self._seal()
        for queue in (self._single, self._long):
            while queue and queue[0].finished:
                queue.popleft()
        if not self._single and not self._long:
            return None
        single = bool(self._single) and not (self._turn_of_long and self._long)
        self._turn_of_long = single
        if single:
            self._quiet = 0
            return Batch(self._take(self._single), 1)
        self._quiet += 1
        steps = self._take(self._long)
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
        first.running = True
        steps, passed, rows = [first], [], first.inputs.rows
        shared, cuttable, length = first.inputs.shared, first.cuttable, first.remaining
        while queue and rows < self._max_rows:
            step = queue.popleft()
            if step.finished:
                continue
            total = rows + step.inputs.rows
            same = step.cuttable == cuttable and step.inputs.shared == shared
            if same and total <= self._max_rows and (cuttable or step.remaining == length):
                step.running = True
                steps.append(step)
                rows = total
            else:
                passed.append(step)
        if passed:
            queue.extendleft(reversed(passed))
        return steps

    def ran(self, step: Step) -> None:
        """The step's run is over and more of its time steps are to come."""
        step.running = False
        self._push(step)

    def finish(self, step: Step) -> None:
        """The step is over, whatever came of it; the next ones of its sessions may run."""
        step.finished, step.running = True, False
        self.waiting -= step.callers
        self.requests += step.callers
        self.stepped += len(step.sessions)
        if step.errors:
            self.failed += len(step.errors)
        self._budget.used -= step.cost
        for behind in self.lines.leave(step):
            behind.blocked -= 1
            if not behind.blocked:
                self._push(behind)
