"""The last word on an adopted file: the bytes as they came, run as their user runs them, by code of its own."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from statecell.spec import ModelSpec, TensorSpec

from statecell_export.errors import VerificationError

Arrays = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]

STEPS = 9
TOLERANCE = 1e-3
"""Of the largest magnitude, or of 1: whether the same is computed at all, not how exactly."""
DRAWS = ("normal", "positive", "large")


def judge(original: Path, adopted: Path, spec: ModelSpec, constants: Mapping[str, str]) -> list[str]:
    """Step the adopted file and run the original whole, or, where it takes all its states, step by step with those fed back.

    Returns what was compared, a line a draw. Raises VerificationError, naming the output and the draw.
    """
    theirs, ours = _session(original), _session(adopted)
    takes = {value.name: value for value in theirs.get_inputs()}
    fixed: Arrays = {n: np.array(text.split(","), np.float64).astype(_dtype(takes[n].type)) for n, text in constants.items()}
    fixed = {n: array.reshape([s if isinstance(s, int) else 1 for s in takes[n].shape]) for n, array in fixed.items()}
    carried = {state.input: state.output for state in spec.states if state.input in takes}
    lines: list[str] = []
    for draw in DRAWS:
        for batch in (1, 3) if spec.has_batch else (1,):
            generator = np.random.default_rng(len(lines) + 11)
            steps = [{t.name: _drawn(t, draw, batch, generator) for t in spec.inputs} for _ in range(STEPS)]
            for tensor in spec.inputs:
                if spec.has_time and tensor.time_axis is None:  # one for the whole sequence
                    steps = [step | {tensor.name: steps[0][tensor.name]} for step in steps]
            fresh: Arrays = {state.input: state.fresh(batch) for state in spec.states}
            got = _stepped(ours, steps, fresh, {state.input: state.output for state in spec.states})
            if len(carried) == len(spec.states) and (carried or not spec.has_time):
                want = _stepped(theirs, [step | fixed for step in steps], {n: fresh[n] for n in carried}, carried)
                how = "stepped, its states fed back" if carried else "call by call"
            else:
                whole = {
                    t.name: steps[0][t.name]
                    if t.time_axis is None
                    else np.concatenate([step[t.name] for step in steps], t.time_axis)
                    for t in spec.inputs
                }
                want, how = [_run(theirs, whole | fixed | {n: fresh[n] for n in carried})], "run whole"
            for output in spec.outputs:
                _compare(output, got, want, f"{draw} inputs, batch {batch}, the original {how}")
            lines.append(f"{draw} inputs, batch {batch}: {STEPS} steps equal the original {how}")
    return lines


def _compare(output: TensorSpec, got: list[Arrays], want: list[Arrays], where: str) -> None:
    axis = 0 if output.time_axis is None else output.time_axis
    a, b = (np.concatenate([part[output.name] for part in parts], axis).astype(np.float64) for parts in (got, want))
    if a.shape != b.shape:
        raise VerificationError(f"{output.name!r} has the shape {list(a.shape)} stepped, {list(b.shape)} is expected ({where})")
    if not np.isfinite(b).all():
        if where.startswith("large"):
            return
        raise VerificationError(f"{output.name!r} of the original is not finite ({where}): nothing can be proven there")
    error = float(np.abs(a - b).max() / max(1.0, np.abs(b).max()))
    if not error <= TOLERANCE:
        raise VerificationError(f"{output.name!r} is off by {error:.2g} when stepped, {TOLERANCE:.0e} is allowed ({where})")


def _stepped(
    session: onnxruntime.InferenceSession, steps: list[Arrays], states: Arrays, carried: Mapping[str, str]
) -> list[Arrays]:
    got = []
    for step in steps:
        got.append(_run(session, step | states))
        states = {before: got[-1][after] for before, after in carried.items()}
    return got


def _run(session: onnxruntime.InferenceSession, feed: Arrays) -> Arrays:
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _drawn(
    tensor: TensorSpec, draw: str, batch: int, generator: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    shape = tensor.sized(seq_len=1, batch=batch)
    if np.dtype(tensor.dtype).kind != "f":
        return generator.integers(0, 2, shape).astype(tensor.dtype)
    if draw == "positive":
        return generator.uniform(0.1, 1.1, shape).astype(tensor.dtype)
    return (generator.standard_normal(shape) * (8 if draw == "large" else 1)).astype(tensor.dtype)


def _dtype(kind: str) -> str:
    """numpy's name of what ONNX Runtime calls tensor(float)."""
    inner = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(inner, inner)
