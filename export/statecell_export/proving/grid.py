"""The grid of sizes and states on which artifacts are compared, and the ledger that compares them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from statecell.spec import BATCH, SEQ_LEN, ModelSpec

from statecell_export.errors import VerificationError
from statecell_export.proving.runners import Arrays, Runner, signature_in, signature_out
from statecell_export.reading.recurrent import Array

SEQ_LENS = (1, 2, 33)
BATCHES = (1, 2, 7)
CHUNKS = (1, 3, 7)
"""A long sequence is cut after these many steps; the rest is the last chunk."""


@dataclass(frozen=True)
class Case:
    """One point of the grid."""

    seq_len: int
    batch: int
    state: str  # "zero" (the states' initial values) or "random"

    def __str__(self) -> str:
        return f"seq_len {self.seq_len}, batch {self.batch}, {self.state} state"


def cases(spec: ModelSpec) -> Iterator[Case]:
    """All points that a model's symbolic axes allow."""
    symbols = {size for tensor in signature_in(spec) for size in tensor.shape}
    seq_lens, batches = (SEQ_LENS if SEQ_LEN in symbols else (1,)), (BATCHES if BATCH in symbols else (1,))
    for seq_len, batch, state in itertools.product(seq_lens, batches, ("zero", "random")):
        yield Case(seq_len, batch, state)


def long_cases(spec: ModelSpec) -> list[Case]:
    """Sequences long enough for all chunks."""
    return [Case(sum(CHUNKS) + 22, batch, "random") for batch in ((1, 2) if spec.has_batch else (1,))]


def chunks(spec: ModelSpec, feed: Arrays) -> list[Arrays]:
    """A call's inputs in chunks of CHUNKS and the rest; without a time axis, again and again. The states go with the first."""
    timed = [tensor for tensor in spec.inputs if tensor.time_axis is not None]
    total = feed[timed[0].name].shape[timed[0].time_axis] if timed else 4
    sizes = [*CHUNKS, total - sum(CHUNKS)] if timed else [1] * total
    parts = []
    for stop, size in zip(itertools.accumulate(sizes), sizes, strict=True):
        part = {
            t.name: feed[t.name] if t.time_axis is None else np.take(feed[t.name], range(stop - size, stop), t.time_axis)
            for t in spec.inputs
        }
        parts.append(part)
    parts[0] |= {state.input: feed[state.input] for state in spec.states}
    return parts


def chunked(spec: ModelSpec, run: Runner, parts: Sequence[Arrays]) -> Arrays:
    """Run chunk after chunk, the states carried on; the outputs joined along seq_len."""
    states: Arrays = {}
    got: list[Arrays] = []
    for part in parts:
        got.append(run(part | states))
        states = {state.input: got[-1][state.output] for state in spec.states}
    joined = {
        t.name: got[-1][t.name] if t.time_axis is None else np.concatenate([g[t.name] for g in got], t.time_axis)
        for t in spec.outputs
    }
    return joined | {state.output: got[-1][state.output] for state in spec.states}


def relative_error(got: Array, want: Array) -> float:
    """The largest difference, over the reference's largest magnitude or 1; infinite where shapes or finiteness differ."""
    if got.shape != want.shape:
        return float("inf")
    if not want.size:
        return 0.0
    a, b = got.astype(np.float64), want.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    return float(np.abs(a - b).max() / max(1.0, np.abs(b).max()))


@dataclass
class Ledger:
    """Worst errors so far, and what is allowed.

    A sum of n products in an arithmetic of unit roundoff u is off by about sqrt(n) * u (Higham and Mary 2019, "A new approach
    to probabilistic rounding error analysis"): `floor`. A recurrence passes that on as it passes on any disturbance, which
    the module's own error in that arithmetic shows. An artifact may be off by four times the larger of the two.
    """

    floor: float
    worst: dict[str, dict[str, float]] = field(default_factory=dict)
    tolerance: float = 0.0
    own: float = 0.0
    cases: int = 0
    _closest: float = 0.0

    def check(self, artifact: str, where: str, got: Arrays, want: Arrays, own: Mapping[str, Array]) -> None:
        """Raises VerificationError, naming the output, the case and the error."""
        self.cases += 1
        for name, reference in want.items():
            if got[name].shape != reference.shape:
                shapes = f"the shape {list(got[name].shape)}, the module gives {list(reference.shape)}"
                raise VerificationError(f"{artifact}: {name!r} has {shapes} ({where})")
            error = relative_error(got[name], reference)
            own_error = relative_error(own[name], reference)
            self.own = max(self.own, own_error)
            allowed = 4 * max(self.floor, own_error)
            if not error <= allowed:
                raise VerificationError(f"{artifact}: {name!r} is off by {error:.2g}, {allowed:.2g} is allowed ({where})")
            errors = self.worst.setdefault(artifact, {})
            errors[name] = max(errors.get(name, 0.0), error)
            if error / allowed >= self._closest:
                self._closest, self.tolerance = error / allowed, allowed


def difference(spec: ModelSpec, run: Runner, feed: Arrays, limit: float) -> str:
    """What differs between a sequence run whole and in chunks with its state carried on, in words; "" for nothing."""
    whole, cut = run(feed), chunked(spec, run, chunks(spec, feed))
    for tensor in signature_out(spec):
        error = relative_error(cut[tensor.name], whole[tensor.name])
        if not error <= limit:
            return f"{tensor.name} differs by {error:.2g} between a sequence run whole and in chunks with its state carried on"
    return ""
