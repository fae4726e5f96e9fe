"""Runner: what runs one model. Gather, run, scatter on a thread of its own; commit on the event loop."""

import asyncio
import logging
import queue
import threading
from collections.abc import Sequence
from time import perf_counter_ns

import numpy as np
from statecell.tensor import Array

from statecell_server.arena import INITIAL_SLOT, StateArena
from statecell_server.errors import InputRefused, InternalError, StatecellError, StepOutOfOrder
from statecell_server.inputs import Inputs
from statecell_server.runtime import Plan, RunError, Runtime
from statecell_server.scheduler import Batch, Scheduler, Step
from statecell_server.sessions import Reply, Session
from statecell_server.statistics import Statistics

log = logging.getLogger(__name__)


class Runner:
    """One version of one model: its runtime, arena, scheduler and compute thread.

    The event loop owns sessions, scheduler and slots; the thread sees one Batch at a time and writes only to slots that no
    session names yet. That is what makes a failed, cancelled or refused step leave the state as it was.
    """

    def __init__(self, name: str, version: str, runtime: Runtime, *, state_memory: int, max_batch: int, max_queue: int) -> None:
        self.name = name
        self.version = version
        self.spec = runtime.spec
        self.runtime = runtime
        self.arena = StateArena(self.spec.states, state_memory, max_batch)
        self.scheduler = Scheduler(self.spec, max_batch, max_queue)
        self.rows = 0  # that sessions hold
        self.statistics = Statistics()
        self.output_names = [t.name for t in self.spec.outputs]
        self._axes = [t.batch_axis for t in self.spec.inputs], [t.batch_axis for t in self.spec.outputs]
        self._times = [t.time_axis for t in self.spec.inputs], [t.time_axis for t in self.spec.outputs]
        self._work: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._compute, name=f"compute-{name}-{version}", daemon=True)
        self._running = self._woken = False

    def start(self) -> None:
        """On the event loop that is to own it."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """After the last step; waits for the thread."""
        self._work.put(None)
        self._thread.join()

    # On the event loop

    def submit(self, step: Step) -> None:
        """Raises QueueFull."""
        self.scheduler.add(step)
        self._wake()

    def step(self, sessions: list[Session], inputs: Inputs, *, repeatable: bool) -> Step:
        """A step of these sessions, not yet submitted."""
        starts = [s.next_index for s in sessions]
        return Step(sessions, inputs, starts, [s.epoch for s in sessions], self.spec.streamable, repeatable)

    def drop(self, step: Step) -> None:
        """Nobody waits for the step any more. Where it runs right now, its result is thrown away."""
        if step.finished or step.running:
            return
        self.scheduler.finish(step)
        self.arena.free(step.slots)

    def _wake(self) -> None:
        # Not at once: what else arrives in this turn of the loop joins the batch.
        if not self._running and not self._woken:
            self._woken = True
            self._loop.call_soon(self._launch)

    def _launch(self) -> None:
        self._woken = False
        while not self._running and (batch := self.scheduler.next_batch()):
            steps = []
            for step in batch.steps:
                try:
                    self._equip(step)
                    steps.append(step)
                except StatecellError as error:
                    self._fail(step, error)
            if steps:
                batch.steps = steps
                self._running = True
                self._work.put(batch)

    def _equip(self, step: Step) -> None:
        """The slots of the next run. Raises StateBudgetExceeded."""
        if step.slots:
            step.sources, step.loads = step.slots, []
            return
        step.slots = self.arena.allocate(step.inputs.rows)
        for session in step.sessions:
            if session.loaded is not None:
                slots = step.slots[len(step.sources) : len(step.sources) + session.batch]
                step.loads.append((slots, session.loaded))
                step.sources += slots
            else:
                step.sources += session.slots

    def _land(self, batch: Batch) -> None:
        """The batch has run: commit it, launch the next one, then tell those who wait."""
        self._running = False
        over = []
        for step in batch.steps:
            if step.remaining == 0 or len(step.errors) == len(step.sessions) or not step.waiters:
                self._commit(step)
                over.append(step)
            else:
                self.scheduler.ran(step)
        self._launch()
        for step in over:
            for waiter in step.waiters:
                waiter.settle()

    def _commit(self, step: Step) -> None:
        """The one place where a session's state moves on."""
        row = 0
        for position, session in enumerate(step.sessions):
            slots = step.slots[row : row + session.batch]
            error = step.errors.get(position) or session.ended
            if error is None and (session.step_index != step.starts[position] or session.epoch != step.epochs[position]):
                error = StepOutOfOrder(
                    f"session {session.id} is at step_index {session.step_index}: "
                    f"what came before this step (step_index {step.starts[position]}) was not applied",
                    session_id=session.id,
                    expected_step_index=session.step_index,
                )
            if error is not None or not step.waiters:
                self.arena.free(slots)
                if error is not None:
                    step.errors[position] = error
            else:
                self.arena.free(session.slots)
                session.slots, session.loaded = slots, None
                session.step_index += step.inputs.seq_len
                if step.repeatable:
                    session.last = Reply(step.starts[position], session.step_index, step.outputs, row)
            row += session.batch
        self.scheduler.finish(step)

    def _fail(self, step: Step, error: StatecellError) -> None:
        step.errors = dict.fromkeys(range(len(step.sessions)), error)
        self._commit(step)
        for waiter in step.waiters:
            waiter.settle()

    def state(self, session: Session) -> list[Array]:
        """A copy of the session's committed state, in the spec's order."""
        return [np.array(a) for a in session.loaded] if session.loaded is not None else self.arena.read(session.slots)

    def release(self, session: Session) -> None:
        """Gives the session's rows back."""
        self.arena.free(session.slots)
        session.slots = [INITIAL_SLOT] * session.batch
        session.loaded = None

    # On the compute thread

    def _compute(self) -> None:
        while (batch := self._work.get()) is not None:
            self.arena.reserve(self.arena.capacity)
            try:
                self._run(batch)
            except Exception as error:
                log.exception("a run of %s failed", self.name)
                for step in batch.steps:
                    step.errors = dict.fromkeys(range(len(step.sessions)), InternalError(f"the run failed: {error}"))
            self._loop.call_soon_threadsafe(self._land, batch)

    def _run(self, batch: Batch) -> None:
        for step in batch.steps:
            for slots, states in step.loads:
                self.arena.scatter(slots, states)
        try:
            self._run_rows([(step, 0, step.inputs.rows) for step in batch.steps], batch.seq_len)
        except RunError:
            # Somebody's input is one that the model cannot take; the others must not suffer for it.
            for step in batch.steps:
                row = 0
                for position, session in enumerate(step.sessions):
                    try:
                        if position not in step.errors:
                            self._run_rows([(step, row, row + session.batch)], batch.seq_len)
                    except RunError as error:
                        step.errors[position] = InputRefused(f"the model refused the input: {error}")
                    row += session.batch
        for step in batch.steps:
            step.done += batch.seq_len

    def _run_rows(self, parts: Sequence[tuple[Step, int, int]], seq_len: int) -> None:
        """The main path: gather, run, scatter. A part is rows [start, stop) of a step. Raises RunError."""
        plan = self.runtime.plan(seq_len, max(sum(stop - start for _, start, stop in parts), self.spec.min_batch))
        self._fill(plan, parts, seq_len)
        sources = [slot for step, start, stop in parts for slot in step.sources[start:stop]]
        # Rows that only fill the plan up start anywhere.
        self.arena.gather(sources + [INITIAL_SLOT] * (self.spec.min_batch - len(sources)), plan.states)
        began = perf_counter_ns()
        self.runtime.run(plan)
        self.statistics.ran(sum(stop - start for _, start, stop in parts), perf_counter_ns() - began)
        self.arena.scatter([slot for step, start, stop in parts for slot in step.slots[start:stop]], plan.next_states)
        self._deliver(plan, parts, seq_len)

    def _fill(self, plan: Plan, parts: Sequence[tuple[Step, int, int]], seq_len: int) -> None:
        for i, target in enumerate(plan.inputs):
            axis, time = self._axes[0][i], self._times[0][i]
            row = 0
            for step, start, stop in parts:
                source = step.inputs.arrays[i]
                index: list[slice] = [slice(None)] * source.ndim
                if time is not None:
                    index[time] = slice(step.done, step.done + seq_len)
                where = [slice(None)] * source.ndim
                if axis is not None:
                    index[axis], where[axis] = slice(start, stop), slice(row, row + stop - start)
                target[tuple(where)] = source[tuple(index)]
                row += stop - start
            if axis is not None and row < target.shape[axis]:
                target[(slice(None),) * axis + (slice(row, None),)] = 0

    def _deliver(self, plan: Plan, parts: Sequence[tuple[Step, int, int]], seq_len: int) -> None:
        """Copies each step's part of the outputs out of the plan."""
        row = 0
        for step, start, stop in parts:
            if not step.outputs:
                sizes = {"seq_len": step.inputs.seq_len, "batch": step.inputs.rows}
                step.outputs = [np.empty(t.sized(**sizes), t.dtype) for t in self.spec.outputs]
            for output, array, axis, time in zip(step.outputs, plan.outputs, self._axes[1], self._times[1], strict=True):
                source, where = [slice(None)] * array.ndim, [slice(None)] * array.ndim
                if time is not None:
                    where[time] = slice(step.done, step.done + seq_len)
                if axis is not None:
                    source[axis], where[axis] = slice(row, row + stop - start), slice(start, stop)
                output[tuple(where)] = array[tuple(source)]
            row += stop - start
