"""The proof that belongs to every export: artifacts against the module, at sizes unlike the example's, whole and in chunks."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from statecell.spec import ModelSpec, TensorSpec
from torch import Tensor, nn

from statecell_export.errors import VerificationError
from statecell_export.example import Leaf
from statecell_export.graph import next_state
from statecell_export.recurrent import Array
from statecell_export.report import Proof
from statecell_export.torchscript import load

SEQ_LENS = (1, 2, 33)
BATCHES = (1, 2, 7)
CHUNKS = (1, 3, 7)
"""A long sequence is cut after these many steps; the rest is the last chunk."""

Arrays = dict[str, Array]
Runner = Callable[[Arrays], Arrays]
"""Runs an artifact: inputs and states by name in, outputs and next states by name out."""


@dataclass(frozen=True)
class Case:
    """One point of the grid."""

    seq_len: int
    batch: int
    state: str  # "zero" or "random"

    def __str__(self) -> str:
        return f"seq_len {self.seq_len}, batch {self.batch}, {self.state} state"


@dataclass
class Ledger:
    """Worst errors so far; the reference in float64 sets the scale, the module's own float32 error the tolerance.

    A sum of n products in a dtype of unit roundoff u is off by about sqrt(n) * u (Higham and Mary 2019, probabilistic error
    analysis), and a recurrence passes that on as it passes on any disturbance, which the module's own error in that dtype shows.
    An artifact may be off by four times the larger of the two.
    """

    floor: float
    worst: dict[str, dict[str, float]] = field(default_factory=dict)
    tolerance: float = 0.0
    closest: float = 0.0
    cases: int = 0

    def check(
        self, artifact: str, where: str, got: Mapping[str, Array], want: Mapping[str, Array], own: Mapping[str, Array]
    ) -> None:
        """Raises VerificationError, naming the output, the case and the error."""
        self.cases += 1
        for name, reference in want.items():
            if got[name].shape != reference.shape:
                raise VerificationError(
                    f"{artifact}: {name!r} has shape {list(got[name].shape)}, the module gives {list(reference.shape)} ({where})"
                )
            error = relative_error(got[name], reference)
            allowed = 4 * max(self.floor, relative_error(own[name], reference))
            if not error <= allowed:
                raise VerificationError(
                    f"{artifact}: {name!r} is off by {error:.2g}, {allowed:.2g} is allowed ({where}); "
                    "nothing was written; please report the module that this happens with"
                )
            errors = self.worst.setdefault(artifact, {})
            errors[name] = max(errors.get(name, 0.0), error)
            if error / allowed >= self.closest:
                self.closest, self.tolerance = error / allowed, allowed


def relative_error(got: Array, want: Array) -> float:
    """The largest difference, over the reference's largest magnitude or 1; infinite where one is not finite and the other is."""
    if not want.size:
        return 0.0
    a, b = got.astype(np.float64), want.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    return float(np.abs(a - b).max() / max(1.0, np.abs(b).max()))


def fan_in(module: nn.Module) -> int:
    """The longest sum of products in the module: its widest weight matrix, doubled for input and state together."""
    return 2 * max((p.shape[-1] for p in module.parameters() if p.dim() > 1), default=1)


class Verifier:
    """Compares artifacts with a lifted module.

    lifted: the module with explicit states, float32. leaves: examples of its inputs, to draw like values from.
    """

    def __init__(self, lifted: nn.Module, spec: ModelSpec, leaves: Sequence[Leaf], exact: nn.Module | None) -> None:
        self.lifted, self.exact, self.spec, self.leaves = lifted, exact, spec, leaves
        self.reference = lifted if exact is None else exact
        self.generator = torch.Generator().manual_seed(1)

    def cases(self) -> Iterator[Case]:
        symbols = {s for t in (*self.spec.inputs, *(s.tensor for s in self.spec.states)) for s in t.shape}
        lens = SEQ_LENS if "seq_len" in symbols else (1,)
        batches = BATCHES if "batch" in symbols else (1,)
        for seq_len, batch, state in itertools.product(lens, batches, ("zero", "random")):
            yield Case(seq_len, batch, state)

    def prove(self, artifacts: Mapping[str, Runner]) -> Proof:
        """Raises VerificationError."""
        ledger = Ledger(floor=fan_in(self.lifted) ** 0.5 * 2.0**-24)
        for case in self.cases():
            feed = self.feed(case)
            want, own = self.run(self.reference, feed), self.run(self.lifted, feed)
            self._declared(want, case)
            for artifact, runner in artifacts.items():
                ledger.check(artifact, f"whole, {case}", runner(feed), want, own)
        for feed in self.long() if self.spec.streamable else ():
            parts = list(chunks(self.spec, feed))
            want, own = (chunked(self.spec, lambda f, m=m: self.run(m, f), parts) for m in (self.reference, self.lifted))
            for artifact, runner in artifacts.items():
                where = f"in chunks of {CHUNKS} and the rest"
                ledger.check(artifact, where, chunked(self.spec, runner, parts), want, own)
        name = "float64" if self.exact else "float32"
        return Proof(self.spec.streamable, self.spec.reason, name, ledger.cases, ledger.worst, ledger.tolerance)

    def long(self) -> Iterator[Arrays]:
        """Inputs long enough for all chunks."""
        for batch in (1, 2) if self.spec.has_batch else (1,):
            yield self.feed(Case(sum(CHUNKS) + 22, batch, "random"))

    def feed(self, case: Case) -> Arrays:
        """Random inputs and the case's states."""
        arrays: Arrays = {}
        for tensor, leaf in zip(self.spec.inputs, self.leaves, strict=True):
            arrays[tensor.name] = leaf.sized(seq_len=case.seq_len, batch=case.batch, generator=self.generator).numpy()
        for state in self.spec.states:
            fresh = state.fresh(case.batch)
            if case.state == "random" and state.input != "started":
                fresh = torch.randn(fresh.shape, generator=self.generator).numpy().astype(fresh.dtype)
            arrays[state.input] = fresh
        return arrays

    def run(self, module: nn.Module, feed: Arrays) -> Arrays:
        """The module's outputs and next states by name."""
        double = module is self.exact
        tensors = [torch.from_numpy(array) for array in feed.values()]
        with torch.no_grad():
            results = module(*(t.double() if double and t.is_floating_point() else t for t in tensors))
        return {t.name: _numpy(r) for t, r in zip(result_tensors(self.spec), results, strict=True)}

    def _declared(self, got: Arrays, case: Case) -> None:
        for tensor in result_tensors(self.spec):
            want = tensor.sized(seq_len=case.seq_len, batch=case.batch)
            if got[tensor.name].shape != want:
                raise VerificationError(
                    f"forward gives {tensor.name!r} the shape {list(got[tensor.name].shape)} where {list(tensor.shape)} was found ({case})"
                )

    def difference(self) -> str:
        """How the module itself differs between a sequence run whole and in chunks with its state carried on; "" if it does not."""
        limit = 1e-4 if self.exact is None else 1e-9
        for feed in self.long() if self.spec.has_time else ():
            whole = self.run(self.reference, feed)
            cut = chunked(self.spec, lambda f: self.run(self.reference, f), list(chunks(self.spec, feed)))
            for tensor in result_tensors(self.spec):
                a, b = cut[tensor.name], whole[tensor.name]
                error = relative_error(a, b) if a.shape == b.shape else float("inf")
                if not error <= limit:
                    return f"{tensor.name} differs by {error:.2g} between a sequence run whole and in chunks with its state carried on"
        return ""


def result_tensors(spec: ModelSpec) -> list[TensorSpec]:
    """The outputs and the next states, in the artifacts' order."""
    return [*spec.outputs, *map(next_state, spec.states)]


def chunks(spec: ModelSpec, feed: Arrays) -> Iterator[Arrays]:
    """The inputs of a call in chunks of CHUNKS and the rest; the states go with the first. Without a time axis, repeated."""
    start = 0
    total = max((feed[t.name].shape[t.time_axis] for t in spec.inputs if t.time_axis is not None), default=sum(CHUNKS[:2]))
    for size in (*CHUNKS, total) if spec.has_time else (1,) * total:
        stop = min(start + size, total)
        part = {}
        for tensor in spec.inputs:
            array = feed[tensor.name]
            part[tensor.name] = array if tensor.time_axis is None else np.take(array, range(start, stop), tensor.time_axis)
        yield part | ({s.input: feed[s.input] for s in spec.states} if start == 0 else {})
        start = stop


def chunked(spec: ModelSpec, run: Runner, parts: Sequence[Arrays]) -> Arrays:
    """Run chunk after chunk, the states carried on; the outputs joined along seq_len."""
    states: Arrays = {}
    got: list[Arrays] = []
    for part in parts:
        got.append(run(part | states))
        states = {state.input: got[-1][state.output] for state in spec.states}
    joined = {
        t.name: np.concatenate([g[t.name] for g in got], t.time_axis) if t.time_axis is not None else got[-1][t.name]
        for t in spec.outputs
    }
    return joined | {state.output: got[-1][state.output] for state in spec.states}


def _numpy(tensor: Tensor) -> Array:
    return tensor.detach().numpy()


def onnx_runner(path: Path) -> Runner:
    """model.onnx in ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # a failed run is told by its exception
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(names, feed), strict=True))


def torchscript_runner(path: Path) -> Runner:
    """model.pt as it will be loaded; its arguments are the inputs, then the states."""
    script, spec = load(path)
    order = [t.name for t in spec.inputs] + [s.input for s in spec.states]

    def run(feed: Arrays) -> Arrays:
        with torch.no_grad(), torch.jit.optimized_execution(False):
            results = script(*(torch.from_numpy(feed[name]) for name in order))
        return {t.name: _numpy(r) for t, r in zip(result_tensors(spec), results, strict=True)}

    return run
