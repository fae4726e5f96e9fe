"""Launcher: when a model's next batch runs, and where: in a turn of the event loop or on the compute thread."""

import asyncio
import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable

from statecell_server.arena.arena import StateArena
from statecell_server.batching.allocation import allocate
from statecell_server.batching.cohort import Cohort
from statecell_server.batching.executor import Executor
from statecell_server.batching.gathering import GatheredStep, Row
from statecell_server.batching.ledger import Ledger
from statecell_server.batching.scheduler import Scheduler
from statecell_server.batching.step import Batch, Step
from statecell_server.errors import Draining, InternalError, StatecellError
from statecell_server.runtimes.runtime import DeviceLost
from statecell_server.sessions.session import Session
from statecell_server.sessions.table import Residents

log = logging.getLogger(__name__)

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
INLINE_SECONDS = 400e-6 if CORES > 1 else 5e-3
"""Runs shorter than this are made on the event loop: waking a thread and being woken by it would cost a good part of it. On
a single core the loop cannot go on beside a thread anyway."""


class Launcher:
    """Takes the scheduler's batches one after the other through the executor, and hands their steps to the ledger.

    The event loop owns it all but `run`, which sees one Batch at a time and writes only to slots that no session names yet.
    """

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        executor: Executor,
        arena: StateArena,
        sessions: Residents,
        lost: Callable[[str], None],
        *,
        on_loop: bool,
    ) -> None:
        """`name`: of the thread. `lost` is called, by any thread, when the device breaks. `on_loop`: may run there."""
        self.name = name
        self.batches: Counter[int] = Counter()  # runs made, by their number of rows
        self.busy: Counter[int] = Counter()  # nanoseconds in them
        self.durations: Counter[int] = Counter()  # runs, by the bits that their nanoseconds take
        self.waits: Counter[int] = Counter()  # batches, by the bits of the nanoseconds that their first step has waited
        self.waited = 0  # nanoseconds, all of those together
        self.last_run = 0.0  # time.time() when the last one began
        self._scheduler = scheduler
        self._executor = executor
        self._arena = arena
        self._sessions = sessions
        self._lost = lost
        self._on_loop = on_loop
        # The compute thread's own time, where it computes: it may wait for the interpreter longer than the run takes.
        self._clock = time.thread_time if on_loop else time.perf_counter
        self._seconds: dict[tuple[int, int], float] = {}  # what a run of (seq_len, rows) took
        self._cohort = Cohort()
        self._work: queue.SimpleQueue[Batch | float | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._compute, name=f"compute-{name}", daemon=True)
        self._all_here = threading.Event()  # ends a pause
        self._busy = self._woken = self._pausing = False

    def start(self, ledger: Ledger) -> None:
        """On the event loop that is to own it."""
        self._ledger = ledger
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """After the last step; waits for the thread."""
        self._work.put(None)
        self._thread.join()

    def submit(self, step: Step) -> None:
        """Raises QueueFull."""
        self._scheduler.add(step)
        if self._pausing and self._cohort.complete(self._scheduler.singles):
            self._all_here.set()
        self.wake()

    def gather(self, session: Session, step_index: int | None, data: bytes, row: Row) -> tuple[GatheredStep, int]:
        """As Scheduler.gather."""
        placed = self._scheduler.gather(session, step_index, data, row)
        if self._pausing and self._cohort.complete(self._scheduler.singles):
            self._all_here.set()
        self.wake()
        return placed

    def wake(self) -> None:
        """Launches a batch in the loop's next turn. What else arrives in this one joins it, and others have their turn."""
        if not self._busy and not self._woken:
            self._woken = True
            self._loop.call_soon(self._launch)

    def _launch(self) -> None:
        """The next batch, if anything waits; in this turn of the loop or, where it takes longer, on the compute thread."""
        self._pausing = False
        if self._cohort.expected and (pause := self._cohort.pause(self._scheduler.singles)) is not None:
            if pause:
                self._pausing = True
                self._all_here.clear()
                self._work.put(pause)
            else:
                self._loop.call_soon(self._launch)
            return
        self._woken = False
        while (batch := self._scheduler.next_batch()) is not None:
            batch.steps = [step for step in batch.steps if self._equip(step)]
            if batch.steps:
                break
        else:
            return
        self._busy = True
        rows = batch.rows
        self.batches[rows] += 1
        self.last_run = time.time()
        if not batch.steps[0].done:
            waited = int((time.perf_counter() - batch.steps[0].queued) * 1e9)
            self.waits[waited.bit_length()] += 1
            self.waited += waited
        if self._on_loop and self._seconds.get((batch.seq_len, rows), 1.0) < INLINE_SECONDS:
            self._run(batch, rows, time.perf_counter)
            self._land(batch)
        else:
            self._work.put(batch)

    def _equip(self, step: Step) -> bool:
        """Gives the step the slots of its next run; False where there is nothing left to run."""
        if not step.failed:
            try:
                allocate(step, self._arena, self._sessions)
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
        nanoseconds = int(seconds * 1e9)
        self.busy[rows] += nanoseconds
        self.durations[nanoseconds.bit_length()] += 1
        # The least of late: a run that was disturbed says little of the next.
        worked = clock() - worked
        self._seconds[batch.seq_len, rows] = min(worked, 1.02 * self._seconds.get((batch.seq_len, rows), worked))
        self._scheduler.took(batch, seconds)

    def _land(self, batch: Batch) -> None:
        """The batch has run: its steps go on or are over."""
        self._busy = False
        over = []
        for step in batch.steps:
            if step.spent:
                self._arena.free(step.spent)
                step.spent = ()
            if step.remaining and not step.failed and step.waiters:
                self._scheduler.ran(step)
            else:
                over.append(step)
        if batch.seq_len == 1:
            self._cohort.answered(sum([step.callers for step in over]), self._scheduler.singles, batch.seconds)
        self._ledger.close(over)
        self.wake()
