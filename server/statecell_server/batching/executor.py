"""Executor: one batch through the model."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import isfinite

import numpy as np
from statecell.tensor import Array

from statecell_server.arena.arena import StateArena
from statecell_server.arena.plan import Plan
from statecell_server.batching.step import Batch, Step
from statecell_server.errors import InputRefused, NonFiniteInput, StateBudgetExceeded
from statecell_server.runtimes.runtime import RunError, Runtime
from statecell_server.sessions.reply import Replies

Part = tuple[Step, int, int]
"""Rows [start, stop) of a step."""
SMALL = 8192


class Executor:
    """Reads the slots that the steps name as sources and writes their new ones; on one thread at a time."""

    def __init__(self, runtime: Runtime, arena: StateArena, replies: Replies, min_batch: int, *, finite: bool = True) -> None:
        """`min_batch`: rows that a run has at least; smaller ones are filled up. `finite`: NaN and infinity are refused."""
        self._finite = finite
        self._spec = runtime.spec
        self._min_batch = min_batch
        self._runtime = runtime
        self._arena = arena
        self._replies = replies
        self._reserved = 0  # slots of the arena that there is memory for
        self._axes = [t.batch_axis for t in runtime.spec.outputs]

    def run(self, batch: Batch) -> None:
        """Leaves outputs and replies in the steps, next states in their slots; what goes wrong for a session, in its errors."""
        if self._arena.capacity > self._reserved:
            self._reserve(batch)
        for step in batch.steps:
            for slots, states in step.loads:
                self._arena.write(slots, states)
        try:
            self._run_rows([(step, 0, step.inputs.rows) for step in batch.steps], batch.seq_len)
        except RunError:
            # Somebody's input is one that the model cannot take; the others must not suffer for it.
            for step in batch.steps:
                self._run_one_by_one(step, batch.seq_len)
        for step in batch.steps:
            step.done += batch.seq_len
            if step.keeps_replies and not step.replies and step.outputs and not step.remaining:
                step.replies = self._replies.cut(step.outputs, step.batches)

    def _reserve(self, batch: Batch) -> None:
        """Raises StateBudgetExceeded."""
        try:
            capacity = self._arena.capacity
            self._arena.reserve(capacity)
            self._reserved = capacity
        except StateBudgetExceeded:
            # There is less than --state-memory promises; what this batch needs may be there all the same.
            self._arena.reserve(1 + max(slot for step in batch.steps for slot in (*step.slots, *step.spent)))

    def _run_one_by_one(self, step: Step, seq_len: int) -> None:
        row = 0
        for position, session in enumerate(step.sessions):
            try:
                if position not in step.errors:
                    self._run_rows([(step, row, row + session.batch)], seq_len)
            except RunError as error:
                step.errors[position] = InputRefused(f"the model refused the input: {error}")
            row += session.batch

    def _run_rows(self, parts: Sequence[Part], seq_len: int) -> None:
        """The main path. Raises RunError."""
        sources: list[int] = []
        slots: list[int] = []
        whole = True  # steps that are new, and done when this run is
        for step, start, stop in parts:
            if stop - start == step.inputs.rows:
                sources += step.sources
                slots += step.slots
                whole = whole and step.inputs.seq_len == seq_len
            else:
                sources += step.sources[start:stop]
                slots += step.slots[start:stop]
                whole = False
        plan = self._runtime.plan(seq_len, max(len(slots), self._min_batch))
        self._fill(plan, parts, len(slots), seq_len, whole=whole)
        if self._finite:
            self._check_finite(plan, parts)
        self._arena.run(plan, sources, slots)
        if whole:
            self._deliver(plan, parts, len(slots))
        else:
            self._deliver_parts(plan, parts, seq_len)

    def _fill(self, plan: Plan, parts: Sequence[Part], rows: int, seq_len: int, *, whole: bool) -> None:
        """The parts' next `seq_len` time steps into the plan's inputs."""
        for i, (tensor, target) in enumerate(zip(self._spec.inputs, plan.inputs, strict=True)):
            axis = tensor.batch_axis
            sources = [step.inputs.arrays[i] for step, _, _ in parts]
            if not whole:
                times = [_cut(a, tensor.time_axis, part[0].done, seq_len) for a, part in zip(sources, parts, strict=True)]
                sources = [_cut(a, axis, start, stop - start) for a, (_, start, stop) in zip(times, parts, strict=True)]
            if axis is None:
                target[...] = sources[0]
                continue
            filled = target if rows == plan.batch else _cut(target, axis, 0, rows)
            if len(sources) == 1:
                filled[...] = sources[0]
            else:
                np.concatenate(sources, axis, out=filled)
            if filled is not target:
                _cut(target, axis, rows, target.shape[axis] - rows)[...] = 0

    def _check_finite(self, plan: Plan, parts: Sequence[Part]) -> None:
        """NaN and infinity are found in the whole batch at once; rows that have them run as zeros, for nothing."""
        for tensor, target in zip(self._spec.inputs, plan.inputs, strict=True):
            if _is_finite(target):
                continue
            axis, row = tensor.batch_axis, 0
            for step, start, stop in parts:
                position = first = 0
                for position, session in enumerate(step.sessions):
                    if start <= first < stop:
                        x = target if axis is None else _cut(target, axis, row, session.batch)
                        if not np.isfinite(x).all():
                            at = np.argwhere(~np.isfinite(x))[0].tolist()
                            value = x[tuple(at)]
                            if tensor.time_axis is not None:
                                at[tensor.time_axis] += step.done
                            step.errors[position] = NonFiniteInput(
                                f"{tensor.name} has {value} at {at}, expected finite numbers", field=tensor.name, at=at
                            )
                        row += session.batch
                    first += session.batch
            target[~np.isfinite(target)] = 0

    def _deliver(self, plan: Plan, parts: Sequence[Part], rows: int) -> None:
        """Copies the outputs; steps that were alone in the run have them whole, others have views."""
        outputs = plan.outputs
        if rows < plan.batch:
            outputs = [_cut(array, axis, 0, rows) for array, axis in zip(outputs, self._axes, strict=True)]
        outputs = [array.copy() for array in outputs]
        if len(parts) == 1:
            parts[0][0].outputs = outputs
            return
        stops = list(accumulate([stop - start for _, start, stop in parts]))
        views = [_split(array, axis, stops) for array, axis in zip(outputs, self._axes, strict=True)]
        batches: list[int] = []
        wanted = False
        for (step, _, _), own in zip(parts, zip(*views, strict=True), strict=True):
            step.outputs = own
            batches += step.batches
            wanted = wanted or step.keeps_replies
        if wanted:  # cut in one piece, in half the time that it takes step by step
            replies, first = self._replies.cut(outputs, batches), 0
            for step, _, _ in parts:
                last = first + len(step.sessions)
                if step.keeps_replies:
                    step.replies = replies[first:last]
                first = last

    def _deliver_parts(self, plan: Plan, parts: Sequence[Part], seq_len: int) -> None:
        """Copies each part of the outputs to its place in those of its step."""
        row = 0
        for step, start, stop in parts:
            if not step.outputs:
                sizes = {"seq_len": step.inputs.seq_len, "batch": step.inputs.rows}
                step.outputs = [np.empty(t.sized(**sizes), t.dtype) for t in self._spec.outputs]
            for tensor, array, output in zip(self._spec.outputs, plan.outputs, step.outputs, strict=True):
                target = _cut(output, tensor.time_axis, step.done, seq_len)
                _cut(target, tensor.batch_axis, start, stop - start)[...] = _cut(array, tensor.batch_axis, row, stop - start)
            row += stop - start


def _is_finite(array: Array) -> bool:
    if array.dtype.kind != "f":
        return True
    # A sum of squares is finite only where all of them are, and takes a quarter of the time of a look at each. It may overflow
    # where all is well. It is slow for float16, and for more numbers the library behind it would wake threads.
    if array.dtype.itemsize > 2 and array.size <= SMALL and isfinite(np.vdot(array, array)):
        return True
    return bool(np.isfinite(array).all())


def _split(array: Array, axis: int | None, stops: Sequence[int]) -> Iterable[Array]:
    """Views between the stops along the axis."""
    if axis is None:
        return [array] * len(stops)
    lead = (slice(None),) * axis
    return [array[(*lead, slice(start, stop))] for start, stop in zip((0, *stops), stops, strict=False)]


def _cut(array: Array, axis: int | None, start: int, size: int) -> Array:
    """A view of array[start : start + size] along the axis."""
    if axis is None or (start == 0 and array.shape[axis] == size):
        return array
    return array[(slice(None),) * axis + (slice(start, start + size),)]
