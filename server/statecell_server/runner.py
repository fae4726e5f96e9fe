"""Runner: what keeps one model running. Batches are launched and committed on the event loop."""

import asyncio
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
from statecell.tensor import Array

from statecell_server.allotment import allot
from statecell_server.arena import INITIAL_SLOT
from statecell_server.config import Config
from statecell_server.errors import InternalError, StatecellError, StepOutOfOrder
from statecell_server.executor import Executor
from statecell_server.inputs import InputCheck, Inputs
from statecell_server.invariance import decide
from statecell_server.journal import Journal, Stamp
from statecell_server.runtime import Runtime
from statecell_server.scheduler import Batch, Scheduler, Step
from statecell_server.sessions import Reply, Session
from statecell_server.store import StateStore

log = logging.getLogger(__name__)

STORE_BATCHES = 4
"""Batches whose results may be on their way to the store while others run."""
INLINE_SECONDS = 400e-6
"""Runs shorter than this are made on the event loop: waking a thread and being woken by it would cost a good part of it."""


class Runner:
    """One version of one model: its runtime, arena, scheduler and compute thread.

    The event loop owns sessions, scheduler and slots; the executor sees one Batch at a time and writes only to slots that no
    session names yet. That is what makes a failed, cancelled or refused step leave the state as it was.
    """

    def __init__(self, name: str, version: str, runtime: Runtime, config: Config, store: StateStore | None, owner: str) -> None:
        """`owner`: this server's mark in the records that it writes to the store."""
        max_batch = config.max_batch
        self.name = name
        self.version = version
        self.spec = runtime.spec
        self.runtime = runtime
        self.check = InputCheck(self.spec)
        self.output_names = [t.name for t in self.spec.outputs]
        self.sharing = decide(runtime, config.batch_variance, max_batch)
        self.arena = runtime.arena(config.state_memory, max_batch * (1 if store is None else STORE_BATCHES))
        stamp = Stamp(name, version, runtime.digest, owner)
        self.journal = None if store is None else Journal(store, stamp, self.spec, self.arena, config.save_every)
        self.scheduler = Scheduler(self.spec, self.sharing.max_batch, config.max_queue, self.sharing.run_length)
        self.sessions: set[Session] = set()
        self.rows = 0  # that they hold, in the arena or beside it
        self.capacity = self.arena.budget + config.spill_memory // max(self.arena.row_bytes, 1)
        self.batches: Counter[int] = Counter()  # runs made, by their number of rows
        self.busy: Counter[int] = Counter()  # nanoseconds in them
        self.last_run = 0.0  # time.time() when the last one began
        self._executor = Executor(runtime, self.arena, self.sharing.min_batch)
        self._seconds: dict[tuple[int, int], float] = {}  # what a run of (seq_len, rows) took
        self._work: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._compute, name=f"compute-{name}-{version}", daemon=True)
        self._busy = self._woken = False
        self._writing: set[asyncio.Task[None]] = set()

    @property
    def note(self) -> str:
        """What to know of the device and of what runs together."""
        return "; ".join(filter(None, (self.runtime.note, self.sharing.note)))

    def start(self) -> None:
        """On the event loop that is to own it."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """After the last step; waits for the thread."""
        self._work.put(None)
        self._thread.join()
        sizes = " ".join(f"{rows}x{runs}" for rows, runs in sorted(self.batches.items()))
        log.info("%s/%s ran batches of (rows x runs): %s", self.name, self.version, sizes or "none")

    def step(self, sessions: Sequence[Session], inputs: Inputs, *, repeatable: bool) -> Step:
        """A step of these sessions, not yet submitted."""
        starts = [s.next_index for s in sessions]
        return Step(sessions, inputs, starts, self.spec.streamable, repeatable)

    def submit(self, step: Step) -> None:
        """Raises QueueFull."""
        self.scheduler.add(step)
        self._wake()

    def drop(self, step: Step) -> None:
        """Nobody waits for the step any more. Where it runs right now, its result will be thrown away."""
        if not step.finished and not step.running:
            self._commit(step)

    def abandon(self, session: Session, error: StatecellError) -> None:
        """The session's state was set from outside or is gone: what it has pending is not to be applied."""
        for step in session.pending:
            step.fail(session, error)

    def state(self, session: Session) -> list[Array]:
        """A copy of the session's committed state, in the spec's order."""
        return [np.array(a) for a in session.loaded] if session.loaded is not None else self.arena.read(session.slots)

    def release(self, session: Session) -> None:
        """Gives the session's rows back."""
        self.arena.free(session.slots)
        session.slots = [INITIAL_SLOT] * session.batch
        session.loaded = None

    def enter(self, session: Session) -> None:
        """The session is here from now on."""
        self.sessions.add(session)
        self.rows += session.batch

    def leave(self, session: Session, error: StatecellError) -> None:
        """The session is here no more; `error` tells those who wait for it."""
        self.abandon(session, error)
        self.release(session)
        self.forget(session)

    def forget(self, session: Session) -> None:
        """It no longer counts."""
        self.sessions.remove(session)
        self.rows -= session.batch

    def _wake(self) -> None:
        """Launches a batch in the loop's next turn. What else arrives in this one joins it, and others have their turn."""
        if not self._busy and not self._woken:
            self._woken = True
            self._loop.call_soon(self._launch)

    def _launch(self) -> None:
        self._woken = False
        batch = self.scheduler.next_batch()
        while batch is not None:
            batch.steps = [step for step in batch.steps if self._equip(step)]
            if batch.steps:
                break
            batch = self.scheduler.next_batch()
        else:
            return
        self._busy = True
        rows = sum(step.inputs.rows for step in batch.steps)
        self.batches[rows] += 1
        self.last_run = time.time()
        if self._seconds.get((batch.seq_len, rows), 1.0) < INLINE_SECONDS:
            self._run(batch, rows)
            self._land(batch)
        else:
            self._work.put(batch)

    def _equip(self, step: Step) -> bool:
        """Gives the step the slots of its next run; False where there is nothing left to run."""
        if not step.failed:
            try:
                allot(step, self.arena, self.sessions)
            except StatecellError as error:
                step.errors = dict.fromkeys(range(len(step.sessions)), error)
        if step.failed:
            self._commit(step)
            self._tell(step)
            return False
        return True

    def _compute(self) -> None:
        """The compute thread."""
        while (batch := self._work.get()) is not None:
            self._run(batch, sum(step.inputs.rows for step in batch.steps))
            self._loop.call_soon_threadsafe(self._land, batch)

    def _run(self, batch: Batch, rows: int) -> None:
        began = time.thread_time()
        failure: StatecellError | None = None
        try:
            self._executor.run(batch)
        except StatecellError as error:
            failure = error
        except Exception as error:
            log.exception("a run of %s failed", self.name)
            failure = InternalError(f"the run failed: {error}")
        if failure is not None:
            for step in batch.steps:
                step.errors = dict.fromkeys(range(len(step.sessions)), failure)
        seconds = time.thread_time() - began
        self.busy[rows] += int(seconds * 1e9)
        # The least of late: a run that was disturbed says little of the next.
        known = self._seconds.get((batch.seq_len, rows), seconds)
        self._seconds[batch.seq_len, rows] = min(seconds, 1.02 * known)
        self.scheduler.took(batch, seconds)

    def _land(self, batch: Batch) -> None:
        """The batch has run: commit it and tell those who wait. What durable sessions did is written first; others go on."""
        self._busy = False
        due = []
        for step in batch.steps:
            if step.spent:
                self.arena.free(step.spent)
                step.spent = ()
            if step.remaining and not step.failed and step.waiters:
                self.scheduler.ran(step)
            elif self.journal is not None and self.journal.due(step):
                step.writing = True
                due.append(step)
            else:
                self._commit(step)
                self._tell(step)
        if due:
            task = self._loop.create_task(self._write(due))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)
        self._wake()

    async def _write(self, steps: Sequence[Step]) -> None:
        assert self.journal is not None, "only a journal finds steps due"
        try:
            await self.journal.write(steps)
        except Exception as error:
            log.exception("a write of %s failed", self.name)
            for step in steps:
                step.errors = dict.fromkeys(range(len(step.sessions)), InternalError(f"the write failed: {error}"))
        for step in steps:
            self._commit(step)
            self._tell(step)
        self._wake()

    def _commit(self, step: Step) -> None:
        """The one place where a session's state moves on, or, where its step failed or nobody waits for it, does not."""
        row = 0
        freed: list[int] = []
        for position, session in enumerate(step.sessions):
            slots = step.slots[row : row + session.batch]
            fence = step.fences.get(position)
            if position in step.errors or not (step.waiters or fence):
                freed += slots
                self._doom(session, step)
            else:
                freed += session.slots
                session.slots = slots
                session.loaded = None
                session.step_index += step.inputs.seq_len
                session.fence = fence or session.fence
                session.last = Reply(step.starts[position], step.inputs.seq_len, step.outputs, row) if step.repeatable else None
            row += session.batch
        self.arena.free(freed)
        self.scheduler.finish(step)

    @staticmethod
    def _doom(session: Session, step: Step) -> None:
        """The steps that the session has pending on top of one that was not applied cannot be applied either."""
        error = step.errors.get(step.position_of(session))
        passing = error if session.durable and error is not None and error.retry_seconds is not None else None
        expected = session.step_index
        for later in session.pending[session.pending.index(step) + 1 :]:
            if later.start_of(session) == expected:  # placed when nobody waited for that one any more
                expected = later.stop_of(session)
                continue
            later.fail(
                session,
                passing
                or StepOutOfOrder(
                    f"session {session.id} is at step_index {session.step_index}: "
                    f"what came before this step (step_index {later.start_of(session)}) was not applied",
                    session_id=session.id,
                    expected_step_index=session.step_index,
                ),
            )

    @staticmethod
    def _tell(step: Step) -> None:
        # Off the step first: a waiter holds its steps, and a circle would be the garbage collector's to find.
        waiters, step.waiters = step.waiters, []
        for waiter in waiters:
            waiter.settle()
