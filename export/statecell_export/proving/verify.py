"""The proof that belongs to every export: artifacts against the module, at sizes unlike the example's, whole and in chunks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from statecell.spec import ModelSpec
from torch import Tensor

from statecell_export.errors import VerificationError
from statecell_export.proving.grid import BATCHES, Case, Ledger, cases, chunked, chunks, difference, long_cases, relative_error
from statecell_export.proving.runners import Arrays, Runner, signature_in, signature_out
from statecell_export.reading.example import Leaf
from statecell_export.reading.lift import Lifted
from statecell_export.reading.recurrent import Array
from statecell_export.report import Proof
from statecell_export.writing.forms import Form

WARM = 3
"""Calls after which a state is one that a session may have."""


class Verifier:
    """Compares artifacts with a lifted module.

    lifted: the module in float32. exact: the same in float64, None where it cannot run so; then float32 is the reference.
    leaves: examples of its inputs, to draw like values from.
    """

    def __init__(self, lifted: Lifted, exact: Lifted | None, spec: ModelSpec, leaves: Sequence[Leaf], form: Form) -> None:
        self.lifted, self.exact, self.spec, self.leaves, self.form = lifted, exact, spec, leaves, form
        self._generator = torch.Generator().manual_seed(1)
        self._any_state: bool | None = None  # whether the module gives finite numbers from any state

    def prove(self, artifacts: Mapping[str, Runner]) -> Proof:
        """Raises VerificationError."""
        ledger = Ledger(self.form.floor(self.lifted))
        for case in cases(self.spec):
            feed = self.feed(case)
            want, own = self.truth(feed), self.own(feed)
            self._as_declared(want, case)
            if case.state == "zero":
                plain = self.run(self.lifted, feed, plain=True)
                lifted = own if self.form.disturbed is None else self.run(self.lifted, feed)
                ledger.check("lifted module", f"whole, {case}", lifted, plain, plain)
            for artifact, run in artifacts.items():
                ledger.check(artifact, f"whole, {case}", run(feed), want, own)
        for case in long_cases(self.spec) if self.spec.streamable else ():
            parts = chunks(self.spec, self.feed(case))
            want, own = chunked(self.spec, self.truth, parts), chunked(self.spec, self.own, parts)
            for artifact, run in artifacts.items():
                ledger.check(artifact, f"in chunks, {case}", chunked(self.spec, run, parts), want, own)
        if self.form.row_by_row and self.spec.has_batch:
            for artifact, run in artifacts.items():
                self._rows_are_alone(artifact, run)
        return Proof(
            self.spec.streamable,
            self.spec.reason,
            "float64" if self.exact else "float32",
            ledger.cases,
            {artifact: errors for artifact, errors in ledger.worst.items() if artifact in artifacts},
            ledger.tolerance,
            ledger.own,
        )

    def accuracy(self, artifacts: Mapping[str, Runner], original: Lifted | None) -> dict[str, dict[str, float]]:
        """Worst error of each output against the module before its weights were rounded."""
        worst: dict[str, dict[str, float]] = {artifact: {} for artifact in artifacts}
        for case in cases(self.spec):
            feed = self.feed(case)
            want = self.run(original or self.lifted, feed, double=original is not None)
            for artifact, run in artifacts.items():
                for name, got in run(feed).items():
                    worst[artifact][name] = max(worst[artifact].get(name, 0.0), relative_error(got, want[name]))
        return worst

    def difference(self) -> str:
        """What the module itself does differently when a sequence is cut; "" for nothing."""
        if self.spec.has_time and self.spec.states:
            for case in long_cases(self.spec)[-1:]:
                found = difference(self.spec, self.truth, self.feed(case), 1e-9 if self.exact else 1e-4)
                if found:
                    return found
        return ""

    def feed(self, case: Case) -> Arrays:
        """Random inputs, and the case's states: any, or where no recurrent module of PyTorch's own takes them, such as it gives
        itself: a cell of one's own may keep what is never negative."""
        arrays: Arrays = {}
        for tensor, leaf in zip(self.spec.inputs, self.leaves, strict=True):
            value = leaf.sized(seq_len=case.seq_len, batch=case.batch, generator=self._generator)
            arrays[tensor.name] = value.numpy().astype(tensor.dtype)
        fresh = {state.input: state.fresh(case.batch) for state in self.spec.states}
        if case.state != "random":
            return arrays | fresh
        if self._any_state is None:
            self._any_state = False  # for what is run now
            floats = all(array.dtype.kind == "f" for array in fresh.values())  # a whole number may be the row of an Embedding
            self._any_state = floats and bool(self.lifted.plan.chains) and self._takes_any(arrays, fresh)
        if self._any_state:
            return arrays | {name: self._normal(array) if name != "started" else array for name, array in fresh.items()}
        states = fresh
        for _ in range(WARM):
            later = self.run(self.lifted, self.feed(replace(case, state="zero")) | states)
            states = {s.input: later[s.output].astype(s.dtype) for s in self.spec.states}
        return arrays | states

    def _takes_any(self, arrays: Arrays, fresh: Arrays) -> bool:
        random = {name: self._normal(array) if name != "started" else array for name, array in fresh.items()}
        return all(np.isfinite(array).all() for array in self.run(self.lifted, arrays | random).values())

    def _normal(self, like: Array) -> Array:
        return torch.randn(like.shape, generator=self._generator).numpy().astype(like.dtype)

    def tensors(self, seq_len: int) -> tuple[Tensor, ...]:
        """Inputs and states to trace with."""
        return tuple(map(torch.from_numpy, self.feed(Case(seq_len, 3, "random")).values()))

    def run(self, module: Lifted, feed: Arrays, *, double: bool = False, plain: bool = False) -> Arrays:
        """The module's outputs and next states by name; with `plain`, what its own forward gives without the states."""
        dtype = torch.float64 if double else torch.float32
        tensors = [torch.from_numpy(array) for array in feed.values()]
        with torch.no_grad():
            results = (module.plain if plain else module)(*(t.to(dtype) if t.is_floating_point() else t for t in tensors))
        return {t.name: r.numpy() for t, r in zip(signature_out(self.spec), results, strict=not plain)}

    def truth(self, feed: Arrays) -> Arrays:
        """What the module gives, in float64 where it can."""
        return self.run(self.exact or self.lifted, feed, double=self.exact is not None)

    def own(self, feed: Arrays) -> Arrays:
        """What the module makes of the form's rounding: how much error it passes on."""
        disturbed = self.form.disturbed
        if disturbed is not None:
            feed = {name: np.asarray(disturbed(array)) if array.dtype.kind == "f" else array for name, array in feed.items()}
        return self.run(self.lifted, feed)

    def ranges(self) -> dict[str, tuple[int, int]]:
        """The smallest and largest whole number in each whole-number input of the example."""
        whole = [leaf for leaf in self.leaves if not leaf.value.is_floating_point() and not leaf.lengths]
        return {leaf.name: (int(leaf.value.min()), int(leaf.value.max())) for leaf in whole}

    def _as_declared(self, got: Arrays, case: Case) -> None:
        for tensor in signature_out(self.spec):
            want, have = tensor.sized(seq_len=case.seq_len, batch=case.batch), got[tensor.name].shape
            if have != want:
                raise VerificationError(f"forward gives {tensor.name!r} the shape {list(have)}, not {list(want)} ({case})")

    def _rows_are_alone(self, artifact: str, run: Runner) -> None:
        """A row's result must be bit for bit the same alone and among others."""
        feed = self.feed(Case(2, max(BATCHES), "random"))
        among = run(feed)
        for row in range(max(BATCHES)):
            rows = [row] * self.spec.min_batch  # a run of fewer is filled up to these
            alone = run({t.name: _rows(feed[t.name], t.batch_axis, rows) for t in signature_in(self.spec)})
            for tensor in signature_out(self.spec):
                if not np.array_equal(alone[tensor.name], _rows(among[tensor.name], tensor.batch_axis, rows)):
                    raise VerificationError(f"{artifact}: {tensor.name!r} of a row depends on the other rows of its batch")


def _rows(array: Array, axis: int | None, rows: Sequence[int]) -> Array:
    return array if axis is None else np.take(array, rows, axis)
