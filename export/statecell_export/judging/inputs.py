"""Inputs that a module may meet in service and that no example shows: large and small, all zero, flags on and off."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from statecell_export.reading.example import Leaf

SCALES = (1.0, 8.0, 0.0)
"""Floats are like the example's own, or far from them, or zero."""


@dataclass(frozen=True)
class Scene:
    """What the inputs are like. `flags`: True, False, or None for both in turns."""

    scale: float
    flags: bool | None

    @property
    def usual(self) -> bool:
        """Whether the module must take them: they are like those of the example."""
        return self.scale == 1

    def __str__(self) -> str:
        flags = {True: ", flags on", False: ", flags off", None: ""}[self.flags]
        if self.usual:
            return "inputs like the example's" + flags
        return (f"inputs {self.scale:g} times the example's" if self.scale else "inputs of zero") + flags


def scenes(leaves: tuple[Leaf, ...]) -> Iterator[Scene]:
    """Those that can tell anything of these inputs."""
    flags: tuple[bool | None, ...] = (None, True, False) if any(leaf.value.dtype == torch.bool for leaf in leaves) else (None,)
    floats = any(leaf.value.is_floating_point() for leaf in leaves)
    for scale in SCALES if floats else SCALES[:1]:
        for flag in flags:
            yield Scene(scale, flag)


def draw(leaf: Leaf, scene: Scene, *, seq_len: int, batch: int, generator: torch.Generator) -> Tensor:
    """A tensor for one input."""
    value = leaf.sized(seq_len=seq_len, batch=batch, generator=generator)
    if leaf.lengths or leaf.range is not None:
        return value
    if value.dtype == torch.bool:
        drawn = torch.rand(value.shape, generator=generator) < 0.5
        return drawn if scene.flags is None else torch.full_like(drawn, scene.flags)
    if value.is_floating_point() and scene.scale != 1:
        factor = torch.full(value.shape[:1], scene.scale)
        if scene.scale > 1:  # what is far off and what is not meet in one sequence
            factor = torch.where(torch.rand(factor.shape, generator=generator) < 0.5, factor, torch.ones(()))
        return value * factor.reshape(-1, *[1] * (value.dim() - 1)).to(value.dtype)
    return value
