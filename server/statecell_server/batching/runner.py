"""Runner: what keeps one model running."""

import asyncio
import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
from statecell.tensor import Array

from statecell_server.batching.allotment import allot
from statecell_server.batching.cohort import Cohort
from statecell_server.batching.executor import Executor
from statecell_server.batching.inputs import InputCheck
from statecell_server.batching.journal import Journal, Stamp
from statecell_server.batching.ledger import Ledger
from statecell_server.batching.scheduler import Scheduler
from statecell_server.batching.step import Batch, Step
from statecell_server.config import Config
from statecell_server.durability.store import StateStore
from statecell_server.errors import Draining, InternalError, StatecellError
from statecell_server.runtimes.invariance import decide
from statecell_server.runtimes.runtime import DeviceLost, Runtime
from statecell_server.sessions.reply import Replies
from statecell_server.sessions.sessions import INITIAL, Residents, Session, Sessions

log = logging.getLogger(__name__)

STORE_BATCHES = 4
"""Batches whose results may be on their way to the store while others run."""
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
INLINE_SECONDS = 400e-6 if CORES > 1 else 5e-3
"""Runs shorter than this are made on the event loop: waking a thread and being woken by it would cost a good part of it. On
a single core the loop cannot go on beside a thread anyway."""


class Runner:
    """One version of one model: its runtime, arena, scheduler and compute thread.

    The event loop owns sessions, scheduler and slots; the executor sees one Batch at a time and writes only to slots that no
    session names yet. That is what makes a failed, cancelled or refused step leave the state as it was.
    """

    def __init__(
        self,
        name: str,
        version: str,
        runtime: Runtime,
        config: Config,
        store: StateStore | None,
        sessions: Sessions,
        lost: Callable[[str], None],
    ) -> None:
        """`sessions`: all that the server has. `lost` is called, by any thread, where the model's device breaks."""
        max_batch = config.max_batch
        self.name = name
        self.version = version
        self.spec = runtime.spec
        self.runtime = runtime
        self.check = InputCheck(self.spec)
        self.output_names = [t.name for t in self.spec.outputs]
        self.sharing = decide(runtime, config.batch_variance, max_batch)
        self.arena = runtime.arena(config.state_memory, max_batch * (1 if store is None else STORE_BATCHES))
        stamp = Stamp(name, version, runtime.digest, sessions.mark)
        self.journal = None if store is None else Journal(store, stamp, self.spec, self.arena, config.save_every)
        self.scheduler = Scheduler(self.spec, self.sharing.max_batch, config.max_queue, self.sharing.run_length)
        self.sessions = Residents(sessions, self)
        self.capacity = self.arena.budget + config.spill_memory // max(self.arena.row_bytes, 1)
        self.batches: Counter[int] = Counter()  # runs made, by their number of rows
        self.busy: Counter[int] = Counter()  # nanoseconds in them
        self.last_run = 0.0  # time.time() when the last one began
        self.replies = Replies(self.spec.outputs)
        self._ledger = Ledger(self.arena, self.scheduler, self.journal, self._wake)
        self._executor = Executor(runtime, self.arena, self.replies, self.sharing.min_batch)
        self._seconds: dict[tuple[int, int], float] = {}  # what a run of (seq_len, rows) took
        # The compute thread's own time, where it computes: it may wait for the interpreter longer than the run takes.
        self._on_loop = runtime.device == "cpu"  # while a GPU runs, the loop has better things to do than to wait for it
        self._clock = time.thread_time if runtime.device == "cpu" else time.perf_counter
        self._lost = lost
        self._cohort = Cohort()
        self._work: queue.SimpleQueue[Batch | float | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._compute, name=f"compute-{name}-{version}", daemon=True)
        self._all_here = threading.Event()  # ends a pause
        self._busy = self._woken = self._pausing = False

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

    def submit(self, step: Step) -> None:
        """Raises QueueFull."""
        self.scheduler.add(step)
        if self._pausing and self.scheduler.singles >= self._cohort.expected:
            self._all_here.set()
        self._wake()

    def drop(self, step: Step) -> None:
        """Nobody waits for the step any more. Where it runs right now, its result will be thrown away."""
        if not step.finished and not step.running:
            self._ledger.commit([step])

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
        session.slots, session.loaded = INITIAL * session.batch, None

    def enter(self, session: Session) -> None:
        """The session is here from now on."""
        self.sessions.add(session)

    def leave(self, session: Session, error: StatecellError) -> None:
        """The session is here no more; `error` tells those who wait for it."""
        self.abandon(session, error)
        self.release(session)
        self.forget(session)

    def forget(self, session: Session) -> None:
        """It no longer counts."""
        self.sessions.remove(session)

    def _wake(self) -> None:
        """Launches a batch in the loop's next turn. What else arrives in this one joins it, and others have their turn."""
        if not self._busy and not self._woken:
            self._woken = True
            self._loop.call_soon(self._launch)

    def _launch(self) -> None:
        """The next batch, if anything waits; in this turn of the loop or, where it takes longer, on the compute thread."""
        self._pausing = False
        if self._cohort.expected and (pause := self._cohort.pause(self.scheduler.singles)) is not None:
            if pause:
                self._pausing = True
                self._all_here.clear()
                self._work.put(pause)
            else:
                self._loop.call_soon(self._launch)
            return
        self._woken = False
        while (batch := self.scheduler.next_batch()) is not None:
            batch.steps = [step for step in batch.steps if self._equip(step)]
            if batch.steps:
                break
        else:
            return
        self._busy = True
        rows = batch.rows
        self.batches[rows] += 1
        self.last_run = time.time()
        if self._on_loop and self._seconds.get((batch.seq_len, rows), 1.0) < INLINE_SECONDS:
            self._run(batch, rows, time.perf_counter)
            self._land(batch)
        else:
            self._work.put(batch)

    def _equip(self, step: Step) -> bool:
        """Gives the step the slots of its next run; False where there is nothing left to run."""
        if not step.failed:
            try:
                allot(step, self.arena, self.sessions)
                return True
            except StatecellError as error:
                step.fail_all(error)
        self._ledger.commit([step])
        return False

    def _compute(self) -> None:
        """The compute thread. It counts the pauses as well: the loop's own timers know whole milliseconds only."""
        while (work := self._work.get()) is not None:
            if isinstance(work, Batch):
                self._run(work, work.rows, self._clock)
                self._loop.call_soon_threadsafe(self._land, work)
            else:
                self._all_here.wait(work)
                # A turn later: the loop may have been busy with answers, and has to look first who has come meanwhile.
                self._loop.call_soon_threadsafe(self._loop.call_soon, self._launch)

    def _run(self, batch: Batch, rows: int, clock: Callable[[], float]) -> None:
        """`clock`: what tells the work of this thread."""
        began, worked = time.perf_counter(), clock()
        failure: StatecellError | None = None
        try:
            self._executor.run(batch)
        except StatecellError as error:
            failure = error
        except DeviceLost as error:
            failure = Draining(f"the server is about to stop: {error}")
            self._lost(str(error))
        except Exception as error:
            log.exception("a run of %s failed", self.name)
            failure = InternalError(f"the run failed: {error}")
        if failure is not None:
            for step in batch.steps:
                step.fail_all(failure)
        seconds = time.perf_counter() - began
        batch.seconds = seconds
        self.busy[rows] += int(seconds * 1e9)
        # The least of late: a run that was disturbed says little of the next.
        worked = clock() - worked
        self._seconds[batch.seq_len, rows] = min(worked, 1.02 * self._seconds.get((batch.seq_len, rows), worked))
        self.scheduler.took(batch, seconds)

    def _land(self, batch: Batch) -> None:
        """The batch has run: its steps go on or are over."""
        self._busy = False
        over = []
        for step in batch.steps:
            if step.spent:
                self.arena.free(step.spent)
                step.spent = ()
            if step.remaining and not step.failed and step.waiters:
                self.scheduler.ran(step)
            else:
                over.append(step)
        if batch.seq_len == 1:
            self._cohort.answered(len(over), self.scheduler.singles, batch.seconds)
        self._ledger.close(over)
        self._wake()
