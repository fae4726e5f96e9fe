"""Judge: an artifact against the module itself, whole and step by step."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from statecell.spec import ModelSpec
from torch import nn

from statecell_export.errors import VerificationError
from statecell_export.judging.compare import Arrays, Run, differs
from statecell_export.judging.far import Far
from statecell_export.judging.inputs import Scene, draw, scenes
from statecell_export.judging.sizes import Decision
from statecell_export.reading.example import Arguments, Leaf
from statecell_export.reading.recurrent import Array

SIZES = ((12, 1), (5, 3))
"""(seq_len, batch) of what is run."""
_OTHERWISE = Scene(-1.0, None)
"""Inputs turned about, at sizes that forward may refuse."""
ROWS = 3
"""Sessions that are run beside each other, one begun after the other."""
STEPS = 7
"""Calls of a module without a time axis."""


class Judge:
    """Runs `module` as its user would: its own forward with the arguments of the example, clones of them in each call.

    states: the argument that each state is, and the place of its next value among the results; None where the module writes it
    into the argument. For a module that takes its states. outputs: the place of each of the spec's outputs.
    """

    def __init__(
        self,
        module: nn.Module,
        arguments: Arguments,
        spec: ModelSpec,
        states: Mapping[str, int | None],
        outputs: Sequence[int],
        *,
        steps: bool = False,
        decisions: Sequence[Decision] = (),
    ) -> None:
        """`steps`: the module keeps its states in itself, so that calling it again steps it. `decisions`: sizes to run too."""
        self._module, self._arguments, self._spec = module, arguments, spec
        self._states, self._outputs = dict(states), list(outputs)
        self._steps = spec.has_time or bool(states) or steps  # otherwise nothing of its own tells how it would be stepped
        self._inputs = [leaf for leaf in arguments.leaves if leaf.name not in self._states and not leaf.constant]
        self._decisions = tuple(decisions)
        self._generator = torch.Generator().manual_seed(2)
        self.seen: list[str] = []
        """What was drawn, in words."""

    def decide(self, artifacts: Mapping[str, Run]) -> None:
        """Raises VerificationError where one of the artifacts does anything else than the module."""
        for artifact, run in artifacts.items():
            if found := self.difference(run, stepped=self._spec.streamable):
                raise VerificationError(f"{artifact}: {found}")

    def difference(self, run: Run, *, stepped: bool) -> str:
        """What `run` does otherwise than the module, in words; "" for nothing. `stepped`: also step by step."""
        self.seen = []
        stepped = stepped and self._steps
        for scene in scenes(tuple(self._inputs)):
            for seq_len, batch in SIZES:
                if batch > 1 and not self._spec.has_batch:
                    continue
                found = self._compare(run, scene, seq_len, batch, stepped=stepped)
                if found:
                    return f"{found}, with {scene}"
            self.seen.append(str(scene))
        for decision in self._decisions:
            if found := self._compare(run, _OTHERWISE, decision.seq_len, decision.batch, stepped=stepped):
                sizes = f"seq_len {decision.seq_len} and batch {decision.batch}"
                return f"{found}, at {sizes}, where forward decides by a size ({decision.line}): do it outside of forward"
        return ""

    def mixed(self, run: Run) -> str:
        """What `run` makes of a row beside others that it does not make of it alone, in words; "" for nothing.

        Beside rows that began before it and after it, as sessions do.
        """
        spec = self._spec
        tensors = [*spec.inputs, *spec.outputs, *(state.tensor for state in spec.states)]
        if not spec.has_batch or any(tensor.batch_axis is None for tensor in tensors):
            return ""
        steps = STEPS if self._steps and spec.streamable else 1
        seq_len = 2 if steps > 1 else SIZES[0][0]
        scene = Scene(1.0, None)
        feeds = [[self._draw(scene, seq_len, 1) for _ in range(steps)] for _ in range(ROWS)]
        alone = [self._run(run, _doubled(spec, feed), spec.min_batch) for feed in feeds]
        fresh = {s.input: s.fresh(1) for s in spec.states}
        states = [fresh] * ROWS
        for call in range(steps + ROWS - 1 if steps > 1 else 1):
            rows = [row for row in range(ROWS) if steps == 1 or 0 <= call - row < steps]
            told = {row: call - row if steps > 1 else 0 for row in rows}
            rows += rows[:1] * (spec.min_batch - len(rows))
            got = run(_joined(spec, [feeds[row][told[row]] | states[row] for row in rows]))
            for place, row in enumerate(rows):
                mine = {t.name: np.take(got[t.name], [place], t.batch_axis) for t in spec.outputs}
                theirs = {t.name: np.take(alone[row][told[row]][t.name], [0], t.batch_axis) for t in spec.outputs}
                states[row] = {s.input: np.take(got[s.output], [place], s.batch_axis) for s in spec.states}
                if found := differs([mine], [theirs]):
                    return f"{found} for a row beside others from what it is for the row alone"
        return self._far().rows(run)

    def foresees(self, run: Run) -> str:
        """What far larger or smaller numbers later in a sequence do to what was given out before them, in words."""
        return self._far().steps(run)

    def _far(self) -> Far:
        return Far(self._inputs, self._spec, STEPS if self._steps and self._spec.streamable else 1)

    def _compare(self, run: Run, scene: Scene, seq_len: int, batch: int, *, stepped: bool) -> str:
        calls = 1 if self._spec.has_time or not stepped else STEPS
        feeds = [self._draw(scene, seq_len, batch) for _ in range(calls)]
        try:
            want = self._truth(feeds)
        except Exception as error:
            if not scene.usual:
                return ""  # what forward itself does not take need not be served
            raise VerificationError(f"forward fails: {error} (with {scene})") from error
        if not all(np.isfinite(a).all() for call in want for a in call.values()):
            if not scene.usual:
                return ""  # there is nothing to compare with
            raise VerificationError(
                f"forward gives numbers that are not finite, by which nothing can be proven (with {scene}); "
                "give an example whose values are like those that it is made for"
            )
        found = differs(self._run(run, feeds, batch), want)
        if found or not (stepped and self._spec.has_time):
            return found and f"{found} from what the module itself gives"
        steps = [{n: _time(self._spec, n, a, t) for n, a in feeds[0].items()} for t in range(seq_len)]
        parts = self._run(run, steps, batch)
        joined = {
            t.name: parts[-1][t.name] if t.time_axis is None else np.concatenate([part[t.name] for part in parts], t.time_axis)
            for t in self._spec.outputs
        }
        found = differs([joined], want)
        return found and f"step by step, {found} from the whole sequence run by the module itself"

    def _draw(self, scene: Scene, seq_len: int, batch: int) -> Arrays:
        drawn = {}
        for leaf, tensor in zip(self._inputs, self._spec.inputs, strict=True):
            value = draw(leaf, scene, seq_len=seq_len, batch=batch, generator=self._generator)
            drawn[tensor.name] = value.numpy().astype(tensor.dtype)
        return drawn

    def _truth(self, feeds: Sequence[Arrays]) -> list[Arrays]:
        """What the module gives in each call, the states that it returned fed back; from zeros, as a caller begins."""
        batch = _batch(self._spec, feeds[0])
        module = copy.deepcopy(self._module)
        by_name = {leaf.name: leaf for leaf in self._arguments.leaves}
        states = {
            name: torch.zeros([size if isinstance(size, int) else batch for size in leaf.shape or ()], dtype=leaf.value.dtype)
            for name, leaf in by_name.items()
            if name in self._states
        }
        results = []
        for feed in feeds:
            tensors = {
                leaf.name: torch.from_numpy(array).to(leaf.value.dtype)
                for leaf, array in zip(self._inputs, feed.values(), strict=True)
            }
            always = {leaf.name: self._always(leaf, feed, batch) for leaf in self._arguments.leaves if leaf.constant}
            flat = {name: t.clone() for name, t in {**tensors, **states, **always}.items()}
            args, kwargs = self._arguments.filled(flat)
            with torch.no_grad():
                found = flattened(module(*args, **kwargs))
            left = dict(zip(self._names(), flattened((args, kwargs)), strict=False))  # in the arguments themselves
            results.append({t.name: found[place].numpy() for t, place in zip(self._spec.outputs, self._outputs, strict=True)})
            states = {n: (left[n] if place is None else found[place]).clone() for n, place in self._states.items()}
        return results

    def _always(self, leaf: Leaf, feed: Arrays, batch: int) -> torch.Tensor:
        """A constant, as long as the inputs are."""
        lengths = [feed[t.name].shape[t.time_axis] for t in self._spec.inputs if t.time_axis is not None]
        return leaf.sized(seq_len=max(lengths, default=1), batch=batch, generator=self._generator)

    def _names(self) -> list[str]:
        """Of forward's flat arguments; "" for what is no tensor."""
        return [getattr(leaf, "name", "") for leaf in self._arguments.flat]

    def _run(self, run: Run, feeds: Sequence[Arrays], batch: int) -> list[Arrays]:
        """What is served: the states in the order and by the names of the spec."""
        states = {s.input: s.fresh(batch) for s in self._spec.states}
        results = []
        for feed in feeds:
            got = run({**feed, **states})
            states = {s.input: got[s.output] for s in self._spec.states}
            results.append(got)
        return results


def flattened(result: Any) -> list[Any]:
    """The leaves of what forward returned, in order: through tuples, lists, dicts and dataclasses."""
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return [leaf for field in dataclasses.fields(result) for leaf in flattened(getattr(result, field.name))]
    if isinstance(result, Mapping):
        return [leaf for value in result.values() for leaf in flattened(value)]
    if isinstance(result, tuple | list):
        return [leaf for value in result for leaf in flattened(value)]
    return [result]


def _doubled(spec: ModelSpec, feeds: Sequence[Arrays]) -> list[Arrays]:
    """One row as it is served: as often as the spec asks for."""
    return [_joined(spec, [feed] * spec.min_batch) for feed in feeds]


def _joined(spec: ModelSpec, rows: Sequence[Arrays]) -> Arrays:
    """One call of several rows, states and all."""
    axes = {t.name: t.batch_axis for t in spec.inputs} | {s.input: s.batch_axis for s in spec.states}
    return {name: np.concatenate([row[name] for row in rows], axes[name]) for name in rows[0]}


def _batch(spec: ModelSpec, feed: Arrays) -> int:
    for tensor in spec.inputs:
        if tensor.batch_axis is not None:
            return int(feed[tensor.name].shape[tensor.batch_axis])
    return 1


def _time(spec: ModelSpec, name: str, array: Array, t: int) -> Array:
    axis = next(tensor.time_axis for tensor in spec.inputs if tensor.name == name)
    return array if axis is None else np.take(array, [t], axis)
