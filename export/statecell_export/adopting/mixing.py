"""What the rows of a file do to each other, and its time steps to those before them, found by running it."""

from collections.abc import Mapping

import numpy as np
from statecell.spec import BATCH, ModelSpec

from statecell_export.adopting.stranger import random
from statecell_export.errors import GraphRefusedError
from statecell_export.judging.compare import SAME
from statecell_export.judging.far import LOUD, QUIET
from statecell_export.proving.grid import Case, difference, long_cases, relative_error
from statecell_export.proving.runners import Arrays, Runner, signature_in, signature_out


def cut_reason(spec: ModelSpec, call: Runner) -> str:
    """Why the model cannot be run in chunks, "" where it can."""
    if not spec.has_time:
        return ""
    for output in spec.outputs:
        if output.time_axis is None:
            return f"output {output.name!r} has no time axis: it is one for a whole sequence"
    for case in long_cases(spec):
        changed = difference(spec, call, feed_of(spec, case, np.random.default_rng(1)), 1e-5)
        if changed:
            return f"{changed}: the model looks across time steps"
    for scale in (1, 1e3, QUIET):
        if swayed := _swayed_steps(spec, call, scale):
            return f"{swayed}: the model looks across time steps"
    return ""


def _swayed_steps(spec: ModelSpec, call: Runner, scale: float) -> str:
    """What far larger numbers later in a sequence do to what was given out before them, in words; "" for nothing."""
    feed = feed_of(spec, Case(6, 2 if spec.has_batch else 1, "random"), np.random.default_rng(4))
    timed, outputs = ({t.name: t.time_axis for t in group if t.time_axis is not None} for group in (spec.inputs, spec.outputs))
    floats = {name: axis for name, axis in timed.items() if feed[name].dtype.kind == "f"}
    feed |= {name: feed[name] * feed[name].dtype.type(scale) for name in floats}
    found = _sway(call, feed, _loud(feed, floats, 3), outputs, 3)
    return "" if found is None else f"{found[0]} differs by {found[1]:.2g} at a step by the size of the numbers after it"


def _loud(feed: Arrays, axes: Mapping[str, int], spared: int) -> Arrays:
    """The feed, with far larger numbers behind the first `spared` along each of these axes."""
    loud = dict(feed)
    for name, axis in axes.items():
        array = feed[name]
        scales = np.where(np.arange(array.shape[axis]) < spared, 1, LOUD / np.abs(array).max()).astype(array.dtype)
        loud[name] = array * scales.reshape([-1 if n == axis else 1 for n in range(array.ndim)])
    return loud


def _sway(call: Runner, feed: Arrays, loud: Arrays, axes: Mapping[str, int], spared: int) -> tuple[str, float] | None:
    """The first result of which the first `spared` along its axis are others where the rest is loud, and by how much."""
    try:
        usual, swayed = call(feed), call(loud)
    except Exception:  # a file need not take any numbers
        return None
    for name, axis in axes.items():
        mine, beside = (np.take(got[name], range(spared), axis) for got in (usual, swayed))
        if np.isfinite(mine).all() and not (error := relative_error(beside, mine)) <= SAME:
            return name, error
    return None


def refuse_mixed_rows(spec: ModelSpec, call: Runner) -> None:
    """Raises GraphRefusedError where a row's results hang on the rows beside it, or on how many they are."""
    if not spec.has_batch:
        return
    feed, few = feed_of(spec, Case(4, 5, "random"), np.random.default_rng(3)), 2
    axes = {tensor.name: tensor.shape.index(BATCH) for tensor in signature_in(spec) if BATCH in tensor.shape}
    part = {n: np.take(array, range(few), axes[n]) if n in axes else array for n, array in feed.items()}
    whole, alone = call(feed), call(part)
    for tensor in signature_out(spec):
        if BATCH not in tensor.shape:
            continue
        error = relative_error(alone[tensor.name], np.take(whole[tensor.name], range(few), tensor.shape.index(BATCH)))
        if not error <= 1e-4:
            raise GraphRefusedError(
                f"rows of a batch change each other: {tensor.name!r} differs by {error:.2g} between 5 rows and the first {few} "
                "of them; export the file with a batch axis of size 1"
            )
    for scale in (1, 1e3, QUIET):
        scaled = {n: array * array.dtype.type(scale) if array.dtype.kind == "f" else array for n, array in feed.items()}
        floats = {t.name: axes[t.name] for t in spec.inputs if t.name in axes and scaled[t.name].dtype.kind == "f"}
        outputs = {t.name: t.shape.index(BATCH) for t in signature_out(spec) if BATCH in t.shape}
        if found := _sway(call, scaled, _loud(scaled, floats, 1), outputs, 1):
            raise GraphRefusedError(
                f"rows of a batch change each other: {found[0]!r} of a row differs by {found[1]:.2g} where the numbers in the "
                "rows beside it are far larger; export the file with a batch axis of size 1"
            )


def feed_of(spec: ModelSpec, case: Case, generator: np.random.Generator) -> Arrays:
    feed = {t.name: random(t.dtype, t.sized(seq_len=case.seq_len, batch=case.batch), generator) for t in spec.inputs}
    for state in spec.states:
        fresh = state.fresh(case.batch)
        feed[state.input] = random(state.dtype, fresh.shape, generator) if case.state == "random" else fresh
    return feed
