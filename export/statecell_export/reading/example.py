"""The example that shows a module's inputs: tensors, or lines such as "x:float32[seq_len,batch,10]"."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from statecell.spec import Shape, SpecError, TensorSpec
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from statecell_export.errors import ExampleError
from statecell_export.reading.lift import Named
from statecell_export.reading.recurrent import is_bare

_LINE = re.compile(r"(?P<name>[^\[\]]+):(?P<dtype>\w+)\[(?P<shape>[\w\s,]*)\]\s*(?P<range>.*)")
_RANGE = re.compile(r"<\s*(?P<count>\d+)|(?P<least>-?[\d.]+(e-?\d+)?)\s*\.\.\s*(?P<most>-?[\d.]+(e-?\d+)?)")


@dataclass(frozen=True)
class Leaf:
    """One tensor among forward's arguments, and its axes where the caller named them."""

    name: str
    value: Tensor
    shape: Shape | None = None
    lengths: str = ""  # of sequences to be packed: "sorted" descending, or in "any" order
    range: tuple[float, float] | None = None  # least and most of what is drawn

    @property
    def only_shape(self) -> bool:
        """Whether its values tell nothing, as those of zeros do."""
        return self.value.is_floating_point() and len(set(self.value.flatten()[:64].tolist())) < 8

    def sized(self, *, seq_len: int, batch: int, generator: torch.Generator) -> Tensor:
        """A random tensor like it, drawn from its range, or else from the example's own values: what a logarithm takes."""
        assert self.shape is not None
        size = TensorSpec(self.name, "float32", self.shape).sized(seq_len=seq_len, batch=batch)
        if self.lengths:
            drawn = torch.randint(1, seq_len + 1, size, generator=generator, dtype=self.value.dtype)
            drawn[torch.randint(batch, (), generator=generator)] = seq_len
            return drawn.sort(descending=True).values if self.lengths == "sorted" else drawn
        if self.range is not None:
            return self._within(*self.range, size, generator)
        if self.only_shape:
            return torch.randn(size, generator=generator).to(self.value.dtype)
        if not self.value.numel():
            raise ExampleError(f"input {self.name!r} of the example is empty; give at least one value")
        pick = torch.randint(self.value.numel(), size, generator=generator)
        return self.value.reshape(-1)[pick]

    def _within(self, least: float, most: float, size: Sequence[int], generator: torch.Generator) -> Tensor:
        if self.value.is_floating_point():
            return (least + (most - least) * torch.rand(size, generator=generator)).to(self.value.dtype)
        drawn = torch.randint(int(least), int(most) + 1, size, generator=generator)
        return drawn.to(self.value.dtype)


@dataclass(frozen=True)
class Arguments:
    """forward's arguments, flat; `flat` holds a Named in place of each tensor."""

    leaves: tuple[Leaf, ...]
    flat: tuple[Any, ...]
    structure: Any

    def filled(self, tensors: dict[str, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) with these tensors."""
        leaves = [tensors[leaf.name] if isinstance(leaf, Named) else leaf for leaf in self.flat]
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        return args, kwargs


def parse(line: str) -> TensorSpec:
    """ "x:float32[seq_len,batch,10]" as a TensorSpec. Raises ExampleError."""
    match = _matched(line)
    sizes = [size.strip() for size in match["shape"].split(",") if size.strip()]
    try:
        return TensorSpec(match["name"], match["dtype"], tuple(int(size) if size.isdigit() else size for size in sizes))
    except SpecError as error:
        raise ExampleError(f"example {line!r}: {error}") from None


def _matched(line: str) -> re.Match[str]:
    match = _LINE.fullmatch(line.strip())
    if match is None or (match["range"] and not _RANGE.fullmatch(match["range"])):
        raise ExampleError(
            f'example {line!r} cannot be read; write it as "x:float32[seq_len,batch,10]", and where its values have a range as '
            '"tokens:int64[batch,seq_len]<20" or "x:float32[seq_len,batch,10]0..1"'
        )
    return match


def parse_range(line: str) -> tuple[float, float] | None:
    """ "tokens:int64[batch,seq_len]<20" says (0, 19), "x:float32[batch,4]0..1" says (0, 1). Raises ExampleError."""
    text = _matched(line)["range"]
    said = _RANGE.fullmatch(text)
    if said is None:
        return None
    try:
        least, most = (0.0, float(said["count"]) - 1) if said["count"] else (float(said["least"]), float(said["most"]))
    except ValueError:
        raise ExampleError(f"example {line!r}: {text!r} is no range") from None
    if not least <= most:
        raise ExampleError(f"example {line!r}: {text!r} holds no value")
    return least, most


def read(module: nn.Module, example: Any) -> Arguments:
    """The example as forward's arguments. Raises ExampleError.

    example: a tensor; a tuple or list of forward's arguments, states nested as forward wants them; a dict of them by
    name; or a TensorSpec or line (or a sequence of them), which names the axes instead of leaving them to be found.
    """
    lines = [example] if isinstance(example, str | TensorSpec) else example
    if isinstance(lines, Sequence) and lines and all(isinstance(line, str | TensorSpec) for line in lines):
        specs = [parse(line) if isinstance(line, str) else line for line in lines]
        ranges = [parse_range(line) if isinstance(line, str) else None for line in lines]
        arguments = _bind(module, tuple(map(_typical, specs, ranges)), {}, {spec.name: spec for spec in specs}, list(specs))
        said = {spec.name: range_ for spec, range_ in zip(specs, ranges, strict=True)}
        return replace(arguments, leaves=tuple(replace(leaf, range=said.get(leaf.name)) for leaf in arguments.leaves))
    if isinstance(example, dict):
        return _bind(module, (), example, {}, [])
    return _bind(module, tuple(example) if isinstance(example, tuple | list) else (example,), {}, {}, [])


def _typical(spec: TensorSpec, said: tuple[float, float] | None) -> Tensor:
    dtype = torch.from_numpy(np.zeros(0, spec.dtype)).dtype
    size = spec.sized(seq_len=5, batch=3)
    if said is not None:
        leaf = Leaf(spec.name, torch.zeros((), dtype=dtype), spec.shape, range=said)
        return leaf.sized(seq_len=5, batch=3, generator=torch.Generator().manual_seed(1))
    return torch.randn(size).to(dtype) if dtype.is_floating_point else torch.ones(size, dtype=dtype)


def _bind(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], named: dict[str, TensorSpec], order: list[TensorSpec]
) -> Arguments:
    forward = inspect.signature(module.forward)
    parameters = list(forward.parameters)
    if order and all(spec.name in parameters for spec in order):
        args, kwargs = (), dict(zip((spec.name for spec in order), args, strict=True))
    try:
        bound = forward.bind(*args, **kwargs)
    except TypeError as error:
        missing = re.search(r"missing a required argument: '(\w+)'", str(error))
        hint = f'; add its line, as in "{missing[1]}:float32[batch,20]" with its own sizes' if missing else ""
        raise ExampleError(f"the example does not fit {type(module).__name__}.forward{forward}: {error}{hint}") from None
    renamed = {"input": "x", "hx": "h_0"} if is_bare(module) else {}
    names = _names(bound, renamed)
    flat, structure = pytree.tree_flatten((bound.args, bound.kwargs))
    leaves: list[Leaf] = []
    places: list[Any] = []
    for position, leaf in enumerate(flat):
        if not isinstance(leaf, Tensor):
            places.append(leaf)
            continue
        name = order[len(leaves)].name if order and len(order) > len(leaves) and not kwargs else names[position]
        spec = named.get(name)
        leaves.append(Leaf(name, leaf.detach().cpu(), spec.shape if spec else None))
        places.append(Named(name))
    if not leaves:
        raise ExampleError(f"the example holds no tensor; {type(module).__name__}.forward{forward} needs one")
    return Arguments(tuple(leaves), tuple(places), structure)


def _names(bound: inspect.BoundArguments, renamed: dict[str, str]) -> list[str]:
    """A name for each flat argument: forward's own name for it, numbered where an argument holds several."""
    names: list[str] = []
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        leaves = pytree.tree_leaves(value)
        if kind is inspect.Parameter.VAR_KEYWORD:
            names.extend(value)
        elif len(leaves) == 1 and kind is not inspect.Parameter.VAR_POSITIONAL:
            names.append(renamed.get(name, name))
        else:
            names.extend(f"{name}_{number}" for number in range(len(leaves)))
    return names
