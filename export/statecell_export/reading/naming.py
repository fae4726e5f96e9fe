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
from statecell_export.reading.axes import SIZES, NoSymbolError, symbolic
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


def with_axes(
    module: nn.Module,
    arguments: Arguments,
    first: Observation,
    generator: torch.Generator,
    kept: frozenset[str] = frozenset(),
) -> Arguments:
    """The arguments with their axes named: by the caller, by what PyTorch's own modules define, or by trying.

    kept: results that are what forward keeps for its next call.
    """
    if all(leaf.shape is not None for leaf in arguments.leaves):
        return arguments
    best: list[Arguments] = []
    found_rank = (0, False)
    error: Exception | None = None
    began = time.monotonic()
    for rank, guess in _guesses(arguments, first):
        if time.monotonic() - began > SECONDS:
            raise ExampleError(_question(arguments, None))
        if best and rank > found_rank:
            break
        try:
            if _holds(module, guess, generator, kept):
                best.append(guess)
                found_rank = rank
        except ExampleError as raised:
            error = error or raised
    if not best and not first.roots:
        raise stateless(module, arguments, first)
    found = {size for leaf in (best[0].leaves if best else ()) for size in leaf.shape or ()}
    if len(best) != 1 or (first.roots and _left_open(found, first, arguments)):
        raise ExampleError(_question(arguments, error))
    return best[0]


def _left_open(found: set[int | str], first: Observation, arguments: Arguments) -> bool:
    """Whether the recurrent modules saw several steps or rows, and no axis is named for them; one of size 1 may be theirs."""
    if 1 in arguments.leaves[0].value.shape:
        return False
    steps = SEQ_LEN not in found and all(root.seq_len > 1 for root in first.roots)
    return steps or (BATCH not in found and all((root.batch or 1) > 1 for root in first.roots))


def _question(arguments: Arguments, error: Exception | None) -> str:
    shapes = ", ".join(f"{leaf.name}{list(leaf.value.shape)}" for leaf in arguments.leaves)
    return (
        f"cannot tell which axes of {shapes} are seq_len and batch"
        + (f" ({error})" if error else "")
        + '; name them, as in example=["x:float32[seq_len,batch,10]"], and let forward take its sizes from x'
    )


def _guesses(arguments: Arguments, first: Observation) -> Iterator[tuple[tuple[int, bool], Arguments]]:
    """Every way to name the axes by which the example is one call of one seq_len and one batch, and its rank: most named axes
    first, and of these, such by which the two are not the same number.

    Among equals, first those by which the first recurrent module sees what the axes are named.
    """
    sizes = sorted({size for leaf in arguments.leaves if leaf.shape is None for size in leaf.value.shape})
    ways: dict[tuple[Shape, ...], bool] = {}
    for seq_len, batch in sorted(itertools.product(sizes, sizes), key=lambda pair: pair != first.sizes):
        alike = {(leaf.path[:1], leaf.value.shape, leaf.shape): leaf for leaf in arguments.leaves}  # of one argument and size
        options = [_shapes(leaf, seq_len, batch) for leaf in alike.values()]
        if math.prod(map(len, options)) > MOST_GUESSES:
            raise ExampleError(_question(arguments, None))
        for option in itertools.product(*options):
            named = dict(zip(alike, option, strict=True))
            way = tuple(named[leaf.path[:1], leaf.value.shape, leaf.shape] for leaf in arguments.leaves)
            ways[way] = seq_len == batch and ways.get(way, True)
    ranks = {way: (-sum(isinstance(size, str) for shape in way for size in shape), equal) for way, equal in ways.items()}
    for way in sorted(ways, key=lambda way: ranks[way]):
        leaves = tuple(replace(leaf, shape=shape) for leaf, shape in zip(arguments.leaves, way, strict=True))
        yield ranks[way], replace(arguments, leaves=leaves)


def _shapes(leaf: Leaf, seq_len: int, batch: int) -> list[Shape]:
    if leaf.shape is not None:
        return [leaf.shape]
    names: list[list[int | str]] = [
        [size, *([SEQ_LEN] if size == seq_len else []), *([BATCH] if size == batch else [])] for size in leaf.value.shape
    ]
    shapes: list[Shape] = list(itertools.product(*names))
    return [shape for shape in shapes if shape.count(SEQ_LEN) <= 1 and shape.count(BATCH) <= 1]


def _holds(module: nn.Module, guess: Arguments, generator: torch.Generator, kept: frozenset[str]) -> bool:
    """Whether a recurrent module sees the sizes that the named axes have; without any, whether there is a state.

    Rows may be several to one of the batch: the bins of a spectrum, say.
    """
    symbols = {size for leaf in guess.leaves for size in leaf.shape or ()}
    if SEQ_LEN not in symbols and BATCH not in symbols:
        return False
    seen = []
    for seq_len, batch in SIZES:
        tensors = {leaf.name: leaf.sized(seq_len=seq_len, batch=batch, generator=generator) for leaf in guess.leaves}
        seen.append(observe(module, guess, tensors))
    if not seen[0].roots:
        states = [leaf.shape or () for leaf in guess.leaves[1:] if leaf.value.is_floating_point()]
        return any(SEQ_LEN not in shape for shape in states) or (bool(kept) and _timeless(seen, kept))
    roots = list(zip(*(one.roots for one in seen), strict=False))
    if any(r[0].seq_len != r[2].seq_len for r in roots):  # of the same seq_len and another batch
        return False
    timed = any(all(n in (root.first, root.seq_len) for root, (n, _) in zip(r, SIZES, strict=True)) for r in roots)
    rows = any(len({(root.batch or 0) / n for root, (_, n) in zip(r, SIZES, strict=True)} - {0.0}) == 1 for r in roots)
    return (timed or SEQ_LEN not in symbols) and (rows or BATCH not in symbols)


def _timeless(seen: list[Observation], kept: frozenset[str]) -> bool:
    """Whether what forward keeps is as long at any seq_len."""
    for place, key in enumerate(seen[0].keys):
        if key in kept:
            shapes = [tuple(one.results[place].shape) for one in seen]
            try:
                if SEQ_LEN in symbolic(shapes):
                    return False
            except NoSymbolError:
                return False
    return True


def stateless(module: nn.Module, arguments: Arguments, first: Observation) -> ModuleRefusedError:
    """The refusal of a module that has nothing to step, as far as the example shows."""
    if arguments.left_out:
        shapes = [list(result.shape) for result in first.results[1:] if isinstance(result, torch.Tensor)]
        given = f"; forward also gives {', '.join(map(str, shapes))}" if shapes else ""
        return ModuleRefusedError(
            f"{type(module).__name__}.forward calls no nn.LSTM, nn.GRU, nn.RNN or cell of these, and may be given "
            f"{' and '.join(arguments.left_out)}, which the example leaves out: where that is its state, put it into the "
            f"example, as zeros or as a line{given}"
        )
    return ModuleRefusedError(
        f"{type(module).__name__} has no recurrent state: forward calls no nn.LSTM, nn.GRU, nn.RNN or cell of these, and "
        "takes no state; take the state as an argument of forward and return its next value, of the same shape"
    )
