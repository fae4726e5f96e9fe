"""Ranges: which whole numbers forward takes, where the example does not say."""

import copy
import time
from dataclasses import replace

import torch
from torch import Tensor, nn

from statecell_export.reading.example import Arguments, Leaf

LARGEST = 1 << 21
"""Numbers beyond it are not tried: what takes those takes any."""
FEW = 10
"""How many are drawn from 0 on where forward takes any."""
SECONDS = 2.0
"""For all that is tried of one input."""


def with_ranges(module: nn.Module, arguments: Arguments) -> Arguments:
    """The arguments, each input of whole numbers with the range that is drawn from.

    An Embedding takes as many as it has rows, one_hot as many as it makes columns; the example, a line above all, need not show
    them. So they are tried, from small to large, until forward fails.
    """
    leaves = tuple(replace(leaf, range=_tried(module, arguments, leaf)) if _open(leaf) else leaf for leaf in arguments.leaves)
    return replace(arguments, leaves=leaves)


def _open(leaf: Leaf) -> bool:
    whole = not leaf.value.is_floating_point() and not leaf.value.is_complex() and leaf.value.dtype != torch.bool
    return whole and leaf.range is None and leaf.value.numel() > 0


def _tried(module: nn.Module, arguments: Arguments, leaf: Leaf) -> tuple[float, float] | None:
    """(least, most); None where only the example's own values are sure."""
    shown = int(leaf.value.min()), int(leaf.value.max())
    began = time.monotonic()
    tensors = {other.name: other.value for other in arguments.leaves}

    def takes(value: Tensor) -> bool:
        args, kwargs = copy.deepcopy(arguments.filled(tensors | {leaf.name: value.to(leaf.value.dtype)}))
        try:
            copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})(*args, **kwargs)
        except Exception:  # of whatever kind: that is what is asked
            return False
        return True

    def full(number: int) -> Tensor:
        return torch.full_like(leaf.value, number)

    if not takes(leaf.value):
        return None  # which will be said with the example's own error
    least = 0 if takes(full(0)) else shown[0]
    good, bad = max(shown[1], least), 0
    largest = min(LARGEST, torch.iinfo(leaf.value.dtype).max)
    while not bad and good < largest and time.monotonic() - began < SECONDS:
        asked = min(max(2 * good, 1), largest)
        good, bad = (asked, 0) if takes(full(asked)) else (good, asked)
    if not bad:
        good = max(shown[1], least + FEW - 1)
    while bad - good > 1 and time.monotonic() - began < 2 * SECONDS:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if takes(full(middle)) else (good, middle)
    drawn = torch.randint(least, good + 1, leaf.value.shape, generator=torch.Generator().manual_seed(3))
    return (least, good) if takes(drawn) else None
