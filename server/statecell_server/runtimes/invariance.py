"""Measures whether a model's results depend on who runs beside whom, and decides what may run together."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from statecell.spec import TensorSpec
from statecell.tensor import Array

from statecell_server.arena.arena import StateArena
from statecell_server.runtimes.runtime import RunError, Runtime

log = logging.getLogger(__name__)

ROWS = 5
STEPS = 4


@dataclass(frozen=True)
class Sharing:
    """What may share a run. No result depends on it by a bit; or `variance` says how it does."""

    max_batch: int  # rows of a run at most
    min_batch: int  # and at least: smaller runs are filled up
    run_length: int | None = None  # time steps of a run at most, where they matter
    alone: bool = False  # even the steps of one message
    variance: str = ""
    note: str = ""


def decide(runtime: Runtime, policy: str, max_batch: int) -> Sharing:
    """By measuring on the device that the model runs on, as it will run.

    Where only the number of time steps in a run matters, all runs have one. Where the batch matters, `policy` decides. "alone":
    every step runs by itself. "pad": all runs have `max_batch` rows, for a kernel is chosen by the sizes of a run and not by
    what is in it; alone, where that does not help. "share": runs are shared as if nothing were the matter. "auto": pad on
    a GPU, where more rows cost next to nothing; alone on the CPU.
    """
    if policy == "auto":
        policy = "alone" if runtime.device == "cpu" else "pad"
    least = runtime.spec.min_batch
    seen = measure_variance(runtime, least)
    if not seen:
        return Sharing(max_batch, least)
    if policy == "share":
        return Sharing(max_batch, least, variance=seen, note=f"{seen}; steps share runs all the same: --batch-variance share")
    if not measure_variance(runtime, least, steps=1):
        return Sharing(max_batch, least, 1, note=f"{seen}; so every run is of one time step")
    if policy == "pad":
        if not measure_variance(runtime, max_batch):
            return Sharing(max_batch, max_batch, note=f"{seen}; so every run has {max_batch} rows")
        if not measure_variance(runtime, max_batch, steps=1):
            return Sharing(max_batch, max_batch, 1, note=f"{seen}; so every run has {max_batch} rows and one time step")
    # Alone is not enough where a request's result would depend on how it is cut into runs.
    length = 1 if measure_variance(runtime, least, rows=least) else None
    return Sharing(1, least, length, alone=True, variance=seen, note=f"{seen}; every step runs alone")


def measure_variance(runtime: Runtime, min_batch: int, steps: int = STEPS, rows: int = ROWS) -> str:
    """What was seen where a row's result is not the same to the bit alone and in a batch, in one run and step by step; else "".

    `rows` rows of random input and state, once together, `steps` time steps in a run, and once each row and each time step
    alone; every run filled up to `min_batch` rows.
    """
    spec = runtime.spec
    if not spec.streamable or not spec.has_batch:
        return ""
    rng = np.random.default_rng(0)
    steps = steps if spec.has_time else 1
    rows = max(rows, min_batch)
    arena = runtime.arena(sum(s.fresh().nbytes for s in spec.states), rows)
    x = [_random(rng, t, steps, rows) for t in spec.inputs]
    states = [_random(rng, s.tensor, 1, rows) for s in spec.states]
    worst = 0.0
    try:
        whole = _run(runtime, arena, x, states, steps, rows)[0]
        for row in np.linspace(0, rows - 1, min(ROWS, rows)).astype(int):
            # A row alone has as many rows as it must have at least, all of them the same.
            only = [row] * min_batch
            state = [_take(a, s.batch_axis, only) for a, s in zip(states, spec.states, strict=True)]
            for step in range(steps):
                now = [_take(_take(a, t.time_axis, [step]), t.batch_axis, only) for a, t in zip(x, spec.inputs, strict=True)]
                outputs, state = _run(runtime, arena, now, state, 1, min_batch)
                for got, y, t in zip(outputs, whole, spec.outputs, strict=True):
                    expected = _take(_take(y, t.time_axis, [step]), t.batch_axis, only)
                    if not np.array_equal(got, expected):
                        worst = max(worst, float(np.abs(got.astype(float) - expected.astype(float)).max()))
    except RunError as error:
        return f"could not be measured: {error}"
    return f"a row's result differed by {worst:.1e} between runs of another batch or seq_len" if worst else ""


def _random(rng: np.random.Generator, tensor: TensorSpec, steps: int, rows: int) -> Array:
    shape = tensor.sized(seq_len=steps, batch=rows)
    floating = np.dtype(tensor.dtype).kind == "f"
    return np.asarray(rng.standard_normal(shape) if floating else rng.integers(0, 2, shape)).astype(tensor.dtype)


def _take(array: Array, axis: int | None, indices: Sequence[int]) -> Array:
    return array if axis is None else array.take(indices, axis)


def _run(
    runtime: Runtime, arena: StateArena, x: Sequence[Array], states: Sequence[Array], steps: int, rows: int
) -> tuple[list[Array], list[Array]]:
    """Through the arena, as a step runs: (outputs, next states)."""
    slots = arena.allocate(2 * rows)
    sources, targets = slots[:rows], slots[rows:]
    arena.reserve(arena.capacity)
    arena.write(sources, states)
    plan = runtime.plan(steps, rows)
    for target, source in zip(plan.inputs, x, strict=True):
        np.copyto(target, source)
    arena.run(plan, sources, targets)
    arena.free(slots)
    return [a.copy() for a in plan.outputs], arena.read(targets)
