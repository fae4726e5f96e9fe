"""Judge: an artifact against the module itself, whole and step by step."""

import copy
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from statecell.spec import ModelSpec
from torch import nn

from statecell_export.errors import VerificationError
from statecell_export.judging.inputs import Scene, draw, scenes
from statecell_export.reading.example import Arguments
from statecell_export.reading.recurrent import Array

Arrays = dict[str, Array]
Run = Callable[[Arrays], Arrays]

SIZES = ((12, 1), (5, 3))
"""(seq_len, batch) of what is run."""
STEPS = 7
"""Calls of a module without a time axis."""
TOLERANCE: defaultdict[str, float] = defaultdict(lambda: 1e-3, float16=3e-2)
"""Of the largest magnitude, or of 1. The arithmetic is proven elsewhere and far closer; this is about what is computed."""


class Judge:
    """Runs `module` as its user would: its own forward with the arguments of the example, clones of them in each call.

    states: the argument that each state is, and the place of its next value among the results; for a module that takes
    and returns its states. outputs: the place of each of the spec's outputs.
    """

    def __init__(
        self,
        module: nn.Module,
        arguments: Arguments,
        spec: ModelSpec,
        states: Mapping[str, int],
        outputs: Sequence[int],
        *,
        steps: bool = False,
    ) -> None:
        """`steps`: the module keeps its states in itself, so that calling it again steps it."""
        self._module, self._arguments, self._spec = module, arguments, spec
        self._states, self._outputs = dict(states), list(outputs)
        self._steps = spec.has_time or bool(states) or steps  # otherwise nothing of its own tells how it would be stepped
        self._inputs = [leaf for leaf in arguments.leaves if leaf.name not in self._states]
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
        return ""

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
        found = self._differs(self._run(run, feeds, batch), want)
        if found or not (stepped and self._spec.has_time):
            return found and f"{found} from what the module itself gives"
        steps = [{n: _time(self._spec, n, a, t) for n, a in feeds[0].items()} for t in range(seq_len)]
        parts = self._run(run, steps, batch)
        joined = {
            t.name: np.concatenate([part[t.name] for part in parts], t.time_axis)
            for t in self._spec.outputs
            if t.time_axis is not None
        }
        found = self._differs([joined], [{name: want[0][name] for name in joined}])
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
            name: torch.zeros([size if isinstance(size, int) else batch for size in by_name[name].shape or ()])
            for name in self._states
        }
        results = []
        for feed in feeds:
            tensors = {
                leaf.name: torch.from_numpy(array).to(leaf.value.dtype)
                for leaf, array in zip(self._inputs, feed.values(), strict=True)
            }
            flat = {name: t.clone() for name, t in {**tensors, **states}.items()}
            args, kwargs = self._arguments.filled(flat)
            with torch.no_grad():
                found = flattened(module(*args, **kwargs))
            results.append({t.name: found[place].numpy() for t, place in zip(self._spec.outputs, self._outputs, strict=True)})
            states = {name: found[place].clone() for name, place in self._states.items()}
        return results

    def _run(self, run: Run, feeds: Sequence[Arrays], batch: int) -> list[Arrays]:
        """What is served: the states in the order and by the names of the spec."""
        states = {s.input: s.fresh(batch) for s in self._spec.states}
        results = []
        for feed in feeds:
            got = run({**feed, **states})
            states = {s.input: got[s.output] for s in self._spec.states}
            results.append(got)
        return results

    def _differs(self, got: Sequence[Arrays], want: Sequence[Arrays]) -> str:
        for number, (mine, theirs) in enumerate(zip(got, want, strict=True)):
            for name, reference in theirs.items():
                value = mine[name]
                if value.shape != reference.shape:
                    return f"{name} has the shape {list(value.shape)}, {list(reference.shape)} is right: it differs"
                error = np.abs(value.astype(np.float64) - reference.astype(np.float64)).max(initial=0.0)
                allowed = TOLERANCE[value.dtype.name] * max(1.0, float(np.abs(reference).max(initial=0.0)))
                if not error <= allowed:
                    where = f" in call {number + 1}" if len(want) > 1 else ""
                    return f"{name} differs by {error:.2g}{where}"
        return ""


def flattened(result: Any) -> list[Any]:
    """The leaves of what forward returned, in order: through tuples, lists, dicts and dataclasses."""
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return [leaf for field in dataclasses.fields(result) for leaf in flattened(getattr(result, field.name))]
    if isinstance(result, Mapping):
        return [leaf for value in result.values() for leaf in flattened(value)]
    if isinstance(result, tuple | list):
        return [leaf for value in result for leaf in flattened(value)]
    return [result]


def _batch(spec: ModelSpec, feed: Arrays) -> int:
    for tensor in spec.inputs:
        if tensor.batch_axis is not None:
            return int(feed[tensor.name].shape[tensor.batch_axis])
    return 1


def _time(spec: ModelSpec, name: str, array: Array, t: int) -> Array:
    axis = next(tensor.time_axis for tensor in spec.inputs if tensor.name == name)
    return array if axis is None else np.take(array, [t], axis)
