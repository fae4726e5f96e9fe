"""Measures whether a model's results depend on who runs beside whom, and decides what may run together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from statecell.tensor import Array

from statecell_server.errors import StateBudgetExceeded
from statecell_server.runtimes import trial
from statecell_server.runtimes.runtime import LEAST_MEMORY, LoadError, RunError, Runtime

PROBES = 5
"""Different rows, of which every run is made up."""
LENGTHS = (1, 2, 3, 4, 8, 16, 32)
"""Time steps of a run; the scheduler makes none that is longer, unless a model cannot be run in pieces."""


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
    try:
        seen = measure_variance(runtime, least, max_batch)
        if not seen:
            return Sharing(max_batch, least)
        if policy == "share":
            return Sharing(
                max_batch, least, variance=seen, note=f"{seen}; steps share runs all the same: --batch-variance share"
            )
        if not measure_variance(runtime, least, max_batch, longest=1):
            return Sharing(max_batch, least, 1, note=f"{seen}; so every run is of one time step")
        if policy == "pad":
            if not measure_variance(runtime, max_batch, max_batch):
                return Sharing(max_batch, max_batch, note=f"{seen}; so every run has {max_batch} rows")
            if not measure_variance(runtime, max_batch, max_batch, longest=1):
                return Sharing(max_batch, max_batch, 1, note=f"{seen}; so every run has {max_batch} rows and one time step")
        # Alone is not enough where a request's result would depend on how it is cut into runs.
        length = 1 if measure_variance(runtime, least, least) else None
    except (RunError, StateBudgetExceeded) as error:
        raise LoadError(
            f"{runtime.spec.name} cannot be run on {runtime.device}, not even on rows of random numbers: {error}"
        ) from error
    return Sharing(1, least, length, alone=True, variance=seen, note=f"{seen}; every step runs alone")


def sizes(runtime: Runtime, min_batch: int, max_batch: int, longest: int) -> Iterable[tuple[int, int]]:
    """The (seq_len, batch) to measure.

    Kernels change at powers of two and where a size is no multiple of one, so both sides of each are tried. On a GPU, where a
    kernel is chosen for both together, all of them at every length; on the CPU a run of several time steps is a loop.
    """
    powers = [2**n for n in range(max_batch.bit_length())]
    batches = sorted({n for p in powers for n in (p, p + 1) if min_batch <= n <= max_batch} | {min_batch, max_batch})
    lengths = [n for n in LENGTHS if n <= longest]
    for batch in batches:
        for length in lengths:
            if runtime.device != "cpu" or length == 1 or batch in {min_batch, min(max(PROBES, min_batch), max_batch)}:
                yield length, batch


def measure_variance(runtime: Runtime, min_batch: int, max_batch: int, longest: int = LENGTHS[-1]) -> str:
    """What was seen where a row's result is not the same to the bit alone, step by step, and in a run of others; else "".

    A few random rows are stepped alone, every run filled up to `min_batch` rows. Then runs of each size up to `max_batch` rows
    and `longest` time steps are made up of the same rows, and each row of each is compared, its outputs and its next state.
    Raises RunError, StateBudgetExceeded, DeviceLost.
    """
    spec = runtime.spec
    if not spec.streamable or not spec.has_batch:
        return ""
    rng = np.random.default_rng(0)
    fitting = LEAST_MEMORY // max(PROBES * spec.row_bytes, 1)
    longest = max(n for n in LENGTHS if n == 1 or n <= min(longest, fitting)) if spec.has_time else 1
    x = [trial.draw(rng, t, longest, PROBES) for t in spec.inputs]
    states = [trial.draw(rng, s.tensor, 1, PROBES) for s in spec.states]
    arena = trial.arena(runtime, max(max_batch, min_batch))
    x_axes = [(t.time_axis, t.batch_axis) for t in spec.inputs]
    y_axes = [(t.time_axis, t.batch_axis) for t in spec.outputs]
    s_axes = [s.batch_axis for s in spec.states]
    alone: list[list[tuple[list[Array], list[Array]]]] = []  # by probe and time step: outputs and next states
    for probe in range(PROBES):
        # Filled up to the rows that a run has at least, all of them the same.
        only, steps = [probe] * min_batch, []
        state = _rows(states, s_axes, only)
        for step in range(longest):
            now = [_take(_take(a, time, [step]), batch, only) for a, (time, batch) in zip(x, x_axes, strict=True)]
            outputs, state = trial.run(runtime, arena, now, state, 1, min_batch)
            first = [_take(a, batch, [0]) for a, (_, batch) in zip(outputs, y_axes, strict=True)]
            steps.append((first, _rows(state, s_axes, [0])))
        alone.append(steps)
    worst = 0.0
    for length, batch in sizes(runtime, min_batch, max_batch, longest):
        members = [row % PROBES for row in range(batch)]
        now = [_take(_take(a, t, range(length)), b, members) for a, (t, b) in zip(x, x_axes, strict=True)]
        outputs, after = trial.run(runtime, arena, now, _rows(states, s_axes, members), length, batch)
        for i, (got, (time, rows)) in enumerate(zip(outputs, y_axes, strict=True)):
            for probe in range(min(PROBES, batch)):
                ys = [outputs[i] for outputs, _ in alone[probe][:length]]
                expected = ys[-1] if time is None else np.concatenate(ys, time)
                worst = max(worst, _difference(_take(got, rows, range(probe, batch, PROBES)), expected))
        for i, (got, axis) in enumerate(zip(after, s_axes, strict=True)):
            for probe in range(min(PROBES, batch)):
                worst = max(worst, _difference(_take(got, axis, range(probe, batch, PROBES)), alone[probe][length - 1][1][i]))
    return f"a row's result differed by {worst:.1e} between runs of another batch or seq_len" if worst else ""


def _difference(got: Array, expected: Array) -> float:
    """The largest; 0.0 where all bits are the same. `expected` is one row, `got` may be several."""
    if np.array_equal(got, np.broadcast_to(expected, got.shape)):
        return 0.0
    return float(np.abs(got.astype(float) - expected.astype(float)).max())


def _take(array: Array, axis: int | None, indices: Sequence[int]) -> Array:
    return array if axis is None else array.take(indices, axis)


def _rows(arrays: Sequence[Array], axes: Sequence[int | None], indices: Sequence[int]) -> list[Array]:
    return [_take(array, axis, indices) for array, axis in zip(arrays, axes, strict=True)]
