"""Executor: one batch through the model. Gather, run, scatter."""

from collections.abc import Sequence

import numpy as np
from statecell.tensor import Array

from statecell_server.arena import INITIAL_SLOT, StateArena
from statecell_server.errors import InputRefused, NonFiniteInput
from statecell_server.runtime import Plan, RunError, Runtime
from statecell_server.scheduler import Batch, Step

Part = tuple[Step, int, int]
"""Rows [start, stop) of a step."""


class Executor:
    """Reads the slots that the steps name as sources and writes their new ones; on one thread at a time."""

    def __init__(self, runtime: Runtime, arena: StateArena) -> None:
        self._spec = runtime.spec
        self._runtime = runtime
        self._arena = arena

    def run(self, batch: Batch) -> None:
        """Leaves the outputs in the steps and the next states in their slots; what goes wrong for a session, in its errors."""
        self._arena.reserve(self._arena.capacity)
        for step in batch.steps:
            for slots, states in step.loads:
                self._arena.scatter(slots, states)
        try:
            self._run_rows([(step, 0, step.inputs.rows) for step in batch.steps], batch.seq_len)
        except RunError:
            # Somebody's input is one that the model cannot take; the others must not suffer for it.
            for step in batch.steps:
                self._run_one_by_one(step, batch.seq_len)
        for step in batch.steps:
            step.done += batch.seq_len

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
        for step, start, stop in parts:
            sources += step.sources[start:stop]
            slots += step.slots[start:stop]
        plan = self._runtime.plan(seq_len, max(len(slots), self._spec.min_batch))
        self._fill(plan, parts, seq_len)
        self._check_finite(plan, parts)
        # Rows that only fill the plan up start anywhere.
        self._arena.gather(sources + [INITIAL_SLOT] * (self._spec.min_batch - len(sources)), plan.states)
        self._runtime.run(plan)
        self._arena.scatter(slots, plan.next_states)
        self._deliver(plan, parts, seq_len)

    def _fill(self, plan: Plan, parts: Sequence[Part], seq_len: int) -> None:
        """The parts' next `seq_len` time steps into the plan's inputs."""
        for i, (tensor, target) in enumerate(zip(self._spec.inputs, plan.inputs, strict=True)):
            sources = [_cut(step.inputs.arrays[i], tensor.time_axis, step.done, seq_len) for step, _, _ in parts]
            axis = tensor.batch_axis
            if axis is None:
                np.copyto(target, sources[0])
                continue
            sources = [_cut(a, axis, start, stop - start) for a, (_, start, stop) in zip(sources, parts, strict=True)]
            rows = sum(stop - start for _, start, stop in parts)
            np.concatenate(sources, axis, out=_cut(target, axis, 0, rows))
            if rows < target.shape[axis]:
                target[(slice(None),) * axis + (slice(rows, None),)] = 0

    def _check_finite(self, plan: Plan, parts: Sequence[Part]) -> None:
        """NaN and infinity are found in the whole batch at once; rows that have them run as zeros, for nothing."""
        for tensor, target in zip(self._spec.inputs, plan.inputs, strict=True):
            if target.dtype.kind != "f" or np.isfinite(target).all():
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

    def _deliver(self, plan: Plan, parts: Sequence[Part], seq_len: int) -> None:
        """Copies each part of the plan's outputs to its step."""
        row = 0
        for step, start, stop in parts:
            whole = stop - start == step.inputs.rows and seq_len == step.inputs.seq_len
            if not whole and not step.outputs:
                sizes = {"seq_len": step.inputs.seq_len, "batch": step.inputs.rows}
                step.outputs = [np.empty(t.sized(**sizes), t.dtype) for t in self._spec.outputs]
            for i, (tensor, array) in enumerate(zip(self._spec.outputs, plan.outputs, strict=True)):
                axis = tensor.batch_axis
                source = array if axis is None else _cut(array, axis, row, stop - start)
                if whole:
                    step.outputs.append(source.copy())
                    continue
                target = _cut(step.outputs[i], tensor.time_axis, step.done, seq_len)
                np.copyto(target if axis is None else _cut(target, axis, start, stop - start), source)
            row += stop - start


def _cut(array: Array, axis: int | None, start: int, size: int) -> Array:
    """A view of array[start : start + size] along the axis."""
    if axis is None or (start == 0 and array.shape[axis] == size):
        return array
    return array[(slice(None),) * axis + (slice(start, start + size),)]
