"""Far: what numbers far from the example's do to the rows beside them, and to the steps before them."""

from collections.abc import Sequence

import numpy as np
import torch
from statecell.spec import BATCH, SEQ_LEN, ModelSpec

from statecell_export.judging.compare import SAME, Arrays, Run, differs
from statecell_export.judging.inputs import Scene, draw
from statecell_export.reading.example import Leaf

LOUD, QUIET = 1e6, 1e-6
"""Times the example's own: beyond any limit that a forward may have for its inputs, and below any."""
SCALES = ((1.0, LOUD), (1e3, LOUD), (QUIET, 1.0), (QUIET, LOUD))
"""What is looked at, and what may not change it."""
WIDTH = 3
"""Rows, and steps, that are run."""


class Far:
    """Both runs of a pair are of one size, and so the same arithmetic: the rounding of large numbers is no difference."""

    def __init__(self, inputs: Sequence[Leaf], spec: ModelSpec, calls: int) -> None:
        self._inputs, self._spec, self._calls = list(inputs), spec, calls
        self._generator = torch.Generator().manual_seed(4)

    def rows(self, run: Run) -> str:
        """What far larger numbers in the rows beside it do to a row, in words; "" for nothing."""
        spec = self._spec
        for mine, theirs in SCALES:
            states = [{s.input: s.fresh(WIDTH) for s in spec.states}] * 2
            for _ in range(self._calls):
                feed = self._draw(WIDTH)
                feeds = [self._scaled(feed, BATCH, mine, rest) for rest in (mine, theirs)]
                try:
                    got = [run({**scaled, **state}) for scaled, state in zip(feeds, states, strict=True)]
                except Exception:  # forward need not take any numbers
                    break
                states = [{s.input: one[s.output] for s in spec.states} for one in got]
                row, beside = ({t.name: np.take(one[t.name], [0], t.batch_axis) for t in spec.outputs} for one in got)
                if not _finite(row):
                    break
                if found := differs([beside], [row], SAME):
                    return f"{found} for a row by the size of the numbers in the rows beside it"
        return ""

    def steps(self, run: Run) -> str:
        """What far larger numbers later in a sequence do to what was given out before them, in words; "" for nothing."""
        spec, batch = self._spec, WIDTH if self._spec.has_batch else 1
        timed = [tensor for tensor in spec.outputs if tensor.time_axis is not None]
        for mine, theirs in SCALES if spec.has_time else ():
            feed, fresh = self._draw(batch), {s.input: s.fresh(batch) for s in spec.states}
            try:
                got = [run({**self._scaled(feed, SEQ_LEN, mine, rest), **fresh}) for rest in (mine, theirs)]
            except Exception:  # forward need not take any numbers
                continue
            first, before = ({t.name: np.take(one[t.name], [0], t.time_axis) for t in timed} for one in got)
            if _finite(first) and (found := differs([before], [first], SAME)):
                return f"{found} at a step by the size of the numbers after it: forward looks across time steps"
        return ""

    def _draw(self, batch: int) -> Arrays:
        scene, sizes = Scene(1.0, None), {"seq_len": WIDTH, "batch": batch}
        drawn = [draw(leaf, scene, **sizes, generator=self._generator).numpy() for leaf in self._inputs]
        return {t.name: array.astype(t.dtype) for t, array in zip(self._spec.inputs, drawn, strict=True)}

    def _scaled(self, feed: Arrays, axis: str, first: float, rest: float) -> Arrays:
        """Floats, but for those whose range is told: `first` times in the first row or step, `rest` times in the others."""
        scaled = dict(feed)
        for leaf, tensor in zip(self._inputs, self._spec.inputs, strict=True):
            array, place = feed[tensor.name], tensor.batch_axis if axis == BATCH else tensor.time_axis
            if place is not None and leaf.value.is_floating_point() and leaf.range is None and not leaf.lengths:
                factor = np.where(np.arange(array.shape[place]) == 0, first, rest).astype(array.dtype)
                scaled[tensor.name] = array * factor.reshape([-1 if n == place else 1 for n in range(array.ndim)])
        return scaled


def _finite(arrays: Arrays) -> bool:
    return all(np.isfinite(array).all() for array in arrays.values())
