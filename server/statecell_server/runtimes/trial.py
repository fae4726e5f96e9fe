"""Runs of random rows through the arena, as steps run: for what a server has to measure before it serves."""

import statistics
import time
from collections.abc import Sequence

import numpy as np
from statecell.spec import TensorSpec
from statecell.tensor import Array

from statecell_server.arena.arena import StateArena
from statecell_server.runtimes.runtime import LoadError, RunError, Runtime


def draw(rng: np.random.Generator, tensor: TensorSpec, steps: int, rows: int) -> Array:
    """Normal numbers; 0 and 1 where the tensor has integers, for any vocabulary has these."""
    shape = tensor.sized(seq_len=steps, batch=rows)
    floating = np.dtype(tensor.dtype).kind == "f"
    return np.asarray(rng.standard_normal(shape) if floating else rng.integers(0, 2, shape)).astype(tensor.dtype)


def arena(runtime: Runtime, rows: int) -> StateArena:
    """One for runs of so many rows, in the place of the runtime's own. Raises StateBudgetExceeded."""
    return runtime.arena(max(runtime.spec.state_bytes, 1), rows)


def run(
    runtime: Runtime, within: StateArena, x: Sequence[Array], states: Sequence[Array], steps: int, rows: int
) -> tuple[list[Array], list[Array]]:
    """(outputs, next states). Raises RunError, StateBudgetExceeded, DeviceLost."""
    slots = within.allocate(2 * rows)
    sources, targets = slots[:rows], slots[rows:]
    within.reserve(within.capacity)
    within.write(sources, states)
    plan = runtime.plan(steps, rows)
    for target, source in zip(plan.inputs, x, strict=True):
        np.copyto(target, source)
    within.run(plan, sources, targets)
    within.free(slots)
    return [a.copy() for a in plan.outputs], within.read(targets)


def seconds(runtime: Runtime, rows: int, least: int = 7, budget: float = 0.1) -> float:
    """What a step of `rows` rows takes, x in and y out: the median of `least` runs, of more where `budget` allows.

    Of one row, where the model takes no more. Raises LoadError where it cannot be run.
    """
    spec, rng = runtime.spec, np.random.default_rng(0)
    rows = rows if spec.has_batch else 1
    within = arena(runtime, rows)
    slots = within.allocate(2 * rows)
    within.reserve(within.capacity)
    within.write(slots, [draw(rng, s.tensor, 1, 2 * rows) for s in spec.states])
    plan = runtime.plan(1, rows)
    for target, tensor in zip(plan.inputs, spec.inputs, strict=True):
        np.copyto(target, draw(rng, tensor, 1, rows))
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < least + 2 or time.perf_counter() - began < budget:
        start = time.perf_counter()
        try:
            within.run(plan, slots[:rows], slots[rows:])
        except RunError as error:
            raise LoadError(f"{spec.name} cannot be run on {runtime.device}: {error}") from error
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])  # the first ones load kernels
