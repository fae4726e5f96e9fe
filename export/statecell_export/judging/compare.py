"""Compare: whether two runs gave the same, in words."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from statecell_export.reading.recurrent import Array

Arrays = dict[str, Array]
Run = Callable[[Arrays], Arrays]

TOLERANCE: defaultdict[str, float] = defaultdict(lambda: 1e-3, float16=3e-2)
"""Of the largest magnitude, or of 1. The arithmetic is proven elsewhere and far closer; this is about what is computed."""
SAME = 1e-5
"""Of the same, where the very same arithmetic is done twice."""


def differs(got: Sequence[Arrays], want: Sequence[Arrays], within: float | None = None) -> str:
    """By how much what came of each call differs from `want`, in words; "" where it does not."""
    for number, (mine, theirs) in enumerate(zip(got, want, strict=True)):
        for name, reference in theirs.items():
            value = mine[name]
            if value.shape != reference.shape:
                return f"{name} has the shape {list(value.shape)}, {list(reference.shape)} is right: it differs"
            error = np.abs(value.astype(np.float64) - reference.astype(np.float64)).max(initial=0.0)
            allowed = (within or TOLERANCE[value.dtype.name]) * max(1.0, float(np.abs(reference).max(initial=0.0)))
            if not error <= allowed:
                where = f" in call {number + 1}" if len(want) > 1 else ""
                return f"{name} differs by {error:.2g}{where}"
    return ""
