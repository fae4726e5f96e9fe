"""Which axes of a module's inputs are seq_len and batch: guessed from the example's sizes, decided by running the module."""

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from statecell.spec import BATCH, SEQ_LEN, Shape
from torch import nn

from statecell_export.errors import ExampleError, ModuleRefusedError
from statecell_export.reading.axes import SIZES
from statecell_export.reading.example import Arguments, Leaf
from statecell_export.reading.observe import Observation, observe

SECONDS = 5.0
"""For the search; whoever's module takes longer is asked."""
MOST_GUESSES = 20_000


def with_lengths(module: nn.Module, arguments: Arguments, first: Observation) -> Arguments:
    """The arguments, the lengths of packed sequences among them marked as such."""
    if not any(root.packed for root in first.roots):
        return arguments
    seq_len, batch = first.sizes
    for place, leaf in enumerate(arguments.leaves):
        if not leaf.value.is_floating_point() and tuple(leaf.value.shape) == (batch,) and int(leaf.value.max()) == seq_len:
            rising = torch.linspace(1, seq_len, batch or 1).to(leaf.value.dtype)
            try:
                observe(module, arguments, {other.name: other.value for other in arguments.leaves} | {leaf.name: rising})
                order = "any"
            except ExampleError:
                order = "sorted"
            marked = replace(leaf, shape=(BATCH,), lengths=order)
            return replace(arguments, leaves=(*arguments.leaves[:place], marked, *arguments.leaves[place + 1 :]))
    raise ModuleRefusedError(
        f"{type(module).__name__}.forward packs its sequences by lengths that are no argument of it; take lengths as an int64 "
        "tensor [batch], its largest value the padded length"
    )


def with_axes(module: nn.Module, arguments: Arguments, first: Observation, generator: torch.Generator) -> Arguments:
    """The arguments with their axes named: by the caller, by what PyTorch's own modules define, or by trying."""
    if all(leaf.shape is not None for leaf in arguments.leaves):
        return arguments
    best: list[Arguments] = []
    symbols = 0
    error: Exception | None = None
    began = time.monotonic()
    for guess in _guesses(arguments, first):
        if time.monotonic() - began > SECONDS:
            raise ExampleError(_question(arguments, None))
        count = sum(isinstance(size, str) for leaf in guess.leaves for size in leaf.shape or ())
        if count < symbols:
            break
        try:
            if _holds(module, guess, generator):
                best.append(guess)
                symbols = count
        except ExampleError as raised:
            error = error or raised
    if not best and not first.roots:
        raise stateless(module)
    seq_len = first.sizes[0]
    found = {size for leaf in (best[0].leaves if best else ()) for size in leaf.shape or ()}
    if len(best) != 1 or (SEQ_LEN not in found and seq_len > 1) or (BATCH not in found and (first.sizes[1] or 1) > 1):
        raise ExampleError(_question(arguments, error))
    return best[0]


def _question(arguments: Arguments, error: Exception | None) -> str:
    shapes = ", ".join(f"{leaf.name}{list(leaf.value.shape)}" for leaf in arguments.leaves)
    return (
        f"cannot tell which axes of {shapes} are seq_len and batch"
        + (f" ({error})" if error else "")
        + '; name them, as in example=["x:float32[seq_len,batch,10]"], and let forward take its sizes from x'
    )


def _guesses(arguments: Arguments, first: Observation) -> Iterator[Arguments]:
    """Every way to name the axes that agrees with the sizes seen, those that name most axes first."""
    seq_len, batch = first.sizes

    def shapes(leaf: Leaf) -> list[Shape]:
        if leaf.shape is not None:
            return [leaf.shape]
        sizes: list[list[int | str]] = [
            [
                size,
                *([SEQ_LEN] if size == seq_len or not first.roots else []),
                *([BATCH] if size == batch or not first.roots else []),
            ]
            for size in leaf.value.shape
        ]
        found: list[Shape] = list(itertools.product(*sizes))
        return [shape for shape in found if shape.count(SEQ_LEN) <= 1 and shape.count(BATCH) <= 1]

    options = list(map(shapes, arguments.leaves))
    if math.prod(map(len, options)) > MOST_GUESSES:
        raise ExampleError(_question(arguments, None))
    ways = list(itertools.product(*options))
    ways.sort(key=lambda way: -sum(isinstance(size, str) for shape in way for size in shape))
    for way in ways:
        leaves = tuple(replace(leaf, shape=shape) for leaf, shape in zip(arguments.leaves, way, strict=True))
        yield replace(arguments, leaves=leaves)


def _holds(module: nn.Module, guess: Arguments, generator: torch.Generator) -> bool:
    """Whether the recurrent calls see the sizes that the named axes have; without such calls, whether there is a state."""
    symbols = {size for leaf in guess.leaves for size in leaf.shape or ()}
    for seq_len, batch in SIZES:
        tensors = {leaf.name: leaf.sized(seq_len=seq_len, batch=batch, generator=generator) for leaf in guess.leaves}
        seen = observe(module, guess, tensors)
        if seen.roots:
            if (SEQ_LEN in symbols and seen.sizes[0] != seq_len) or (BATCH in symbols and seen.sizes[1] != batch):
                return False
        elif not any(leaf.value.is_floating_point() and SEQ_LEN not in (leaf.shape or ()) for leaf in guess.leaves[1:]):
            return False
    return True


def stateless(module: nn.Module) -> ModuleRefusedError:
    """The refusal of a module that has nothing to step."""
    return ModuleRefusedError(
        f"{type(module).__name__} has no recurrent state: forward calls no nn.LSTM, nn.GRU, nn.RNN or cell of these, and "
        "takes no state; take the state as an argument of forward and return its next value, of the same shape"
    )
