"""Measures whether a model's results depend on who runs beside whom."""

from collections.abc import Sequence

import numpy as np
from statecell.spec import TensorSpec
from statecell.tensor import Array

from statecell_server.runtime import RunError, Runtime

ROWS = 5
STEPS = 4


def measure_variance(runtime: Runtime) -> str:
    """What was seen where a row's result is not the same to the bit alone and in a batch, in one run and step by step; else "".

    A few rows of random input and state, once together and once each row and each time step alone.
    """
    spec = runtime.spec
    if not spec.streamable or not spec.has_batch:
        return ""
    rng = np.random.default_rng(0)
    steps = STEPS if spec.has_time else 1
    x = [_random(rng, t, steps) for t in spec.inputs]
    states = [_random(rng, s.tensor, 1) for s in spec.states]
    try:
        whole = _run(runtime, x, states, steps, ROWS)[0]
        worst = 0.0
        for row in range(ROWS):
            # A row alone has as many rows as the spec asks for at least, all of them the same.
            only = [row] * spec.min_batch
            state = [_take(a, s.batch_axis, only) for a, s in zip(states, spec.states, strict=True)]
            for step in range(steps):
                now = [_take(_take(a, t.time_axis, [step]), t.batch_axis, only) for a, t in zip(x, spec.inputs, strict=True)]
                outputs, state = _run(runtime, now, state, 1, spec.min_batch)
                for got, y, t in zip(outputs, whole, spec.outputs, strict=True):
                    expected = _take(_take(y, t.time_axis, [step]), t.batch_axis, only)
                    if not np.array_equal(got, expected):
                        worst = max(worst, float(np.abs(got.astype(float) - expected.astype(float)).max()))
    except RunError as error:
        return f"could not be measured: {error}"
    return f"a row's result differed by {worst:.1e} between runs of another batch or seq_len" if worst else ""


def _random(rng: np.random.Generator, tensor: TensorSpec, steps: int) -> Array:
    shape = tensor.sized(seq_len=steps, batch=ROWS)
    floating = np.dtype(tensor.dtype).kind == "f"
    return np.asarray(rng.standard_normal(shape) if floating else rng.integers(0, 2, shape)).astype(tensor.dtype)


def _take(array: Array, axis: int | None, indices: Sequence[int]) -> Array:
    return array if axis is None else array.take(indices, axis)


def _run(
    runtime: Runtime, x: Sequence[Array], states: Sequence[Array], steps: int, rows: int
) -> tuple[list[Array], list[Array]]:
    plan = runtime.plan(steps, rows)
    for target, source in zip((*plan.inputs, *plan.states), (*x, *states), strict=True):
        np.copyto(target, source)
    runtime.run(plan)
    return [a.copy() for a in plan.outputs], [a.copy() for a in plan.next_states]
