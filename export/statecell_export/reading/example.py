"""The example that shows a module's inputs: tensors, or lines such as "x:float32[seq_len,batch,10]"."""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from statecell.spec import Shape, TensorSpec
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from statecell_export.errors import ExampleError
from statecell_export.reading.lift import Named
from statecell_export.reading.lines import Said, drawn, parse, parse_range, typical, within
from statecell_export.reading.recurrent import is_bare
from statecell_export.reading.results import Path, plain_path


@dataclass(frozen=True)
class Leaf:
    """One tensor among forward's arguments, and its axes where the caller named them."""

    name: str
    value: Tensor
    shape: Shape | None = None
    lengths: str = ""  # of sequences to be packed: "sorted" descending, or in "any" order
    range: tuple[float, float] | None = None  # least and most of what is drawn
    path: Path = ()  # in forward's arguments, by name
    initial: float = 0.0  # with what a session begins, where it is a state
    constant: bool = False  # it has this range of one value, and is no input of what is exported

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
            return within(*self.range, size, generator, self.value.dtype)
        if self.only_shape:
            return torch.randn(size, generator=generator).to(self.value.dtype)
        if not self.value.numel():
            raise ExampleError(f"input {self.name!r} of the example is empty; give at least one value")
        pick = torch.randint(self.value.numel(), size, generator=generator)
        return self.value.reshape(-1)[pick]


@dataclass(frozen=True)
class Arguments:
    """forward's arguments, flat; `flat` holds a Named in place of each tensor."""

    leaves: tuple[Leaf, ...]
    flat: tuple[Any, ...]
    structure: Any
    left_out: tuple[str, ...] = ()  # what forward may be given besides, and is None

    def fixed(self, constants: Mapping[str, float]) -> "Arguments":
        """With these held at one value. Raises ExampleError."""
        names = [leaf.name for leaf in self.leaves]
        if unknown := [name for name in constants if name not in names]:
            raise ExampleError(f"constant {unknown[0]!r} is no tensor of the example; these are {', '.join(names)}")

        def one(leaf: Leaf) -> Leaf:
            if leaf.name not in constants:
                return leaf
            value = float(constants[leaf.name])
            return replace(leaf, value=torch.full_like(leaf.value, value), range=(value, value), constant=True)

        if set(names) <= set(constants):
            raise ExampleError("all tensors of the example are constants; leave one to be the input")
        return replace(self, leaves=tuple(map(one, self.leaves)))

    def filled(self, tensors: dict[str, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) with these tensors."""
        leaves = [tensors[leaf.name] if isinstance(leaf, Named) else leaf for leaf in self.flat]
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        return args, kwargs


def read(module: nn.Module, example: Any) -> Arguments:
    """The example as forward's arguments. Raises ExampleError.

    example: a tensor; a tuple or list of forward's arguments, states nested as forward wants them; a dict of them by
    name; or a TensorSpec or line (or a sequence of them), which names the axes instead of leaving them to be found. A line may
    stand for any tensor within the others, too.
    """
    lines = [example] if isinstance(example, str | TensorSpec) else example
    if isinstance(lines, Sequence) and lines and all(isinstance(line, str | TensorSpec) for line in lines):
        specs = [parse(line) if isinstance(line, str) else line for line in lines]
        ranges = [parse_range(line) if isinstance(line, str) else None for line in lines]
        arguments = _bind(module, tuple(map(typical, specs, ranges)), {}, {spec.name: spec for spec in specs}, list(specs))
        range_of = {spec.name: range_ for spec, range_ in zip(specs, ranges, strict=True)}
        return replace(arguments, leaves=tuple(replace(leaf, range=range_of.get(leaf.name)) for leaf in arguments.leaves))
    said: dict[int, Said] = {}
    example = drawn(example, said)
    if isinstance(example, dict):
        return _named_by(_bind(module, (), example, {}, []), said)
    args = tuple(example) if isinstance(example, tuple | list) else (example,)
    return _named_by(_bind(module, args, {}, {}, []), said)


def _named_by(arguments: Arguments, said: dict[int, Said]) -> Arguments:
    """With the names, shapes and ranges of the lines that stood for some of the tensors."""
    leaves = []
    for leaf in arguments.leaves:
        line = said.get(id(leaf.value))
        leaves.append(leaf if line is None else replace(leaf, name=line.spec.name, shape=line.spec.shape, range=line.range))
    renamed = dict(zip((leaf.name for leaf in arguments.leaves), (leaf.name for leaf in leaves), strict=True))
    if len(set(renamed.values())) < len(leaves):
        raise ExampleError(f"the example's names {', '.join(renamed.values())} are not all different")
    flat = tuple(Named(renamed[leaf.name]) if isinstance(leaf, Named) else leaf for leaf in arguments.flat)
    return replace(arguments, leaves=tuple(leaves), flat=flat)


def _bind(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], named: dict[str, TensorSpec], order: list[TensorSpec]
) -> Arguments:
    forward = inspect.signature(module.forward)
    outer = _outermost(module.forward)
    by_name = dict(zip((spec.name for spec in order), args, strict=False))
    if (order and all(spec.name in forward.parameters for spec in order)) or (
        order and not _fits(forward, *args) and _fits(outer, **by_name)
    ):
        args, kwargs = (), by_name
    if not _fits(forward, *args, **kwargs) and _fits(outer, *args, **kwargs):
        forward = outer
    try:
        bound = forward.bind(*args, **kwargs)
    except TypeError as error:
        missing = re.search(r"missing a required argument: '(\w+)'", str(error))
        hint = f'; add its line, as in "{missing[1]}:float32[batch,20]" with its own sizes' if missing else ""
        raise ExampleError(f"the example does not fit {type(module).__name__}.forward{forward}: {error}{hint}") from None
    renamed = {"input": "x", "hx": "h_0"} if is_bare(module) else {}
    paths = _paths(bound, renamed)
    names = _names(paths)
    flat, structure = pytree.tree_flatten((bound.args, bound.kwargs))
    leaves: list[Leaf] = []
    places: list[Any] = []
    for position, leaf in enumerate(flat):
        if not isinstance(leaf, Tensor):
            places.append(leaf)
            continue
        name = order[len(leaves)].name if order and len(order) > len(leaves) and not kwargs else names[position]
        spec = named.get(name)
        own = leaf.detach().cpu() if leaf.requires_grad or leaf.device.type != "cpu" else leaf  # itself: a line is known by it
        leaves.append(Leaf(name, own, spec.shape if spec else None, path=paths[position]))
        places.append(Named(name))
    if not leaves:
        raise ExampleError(f"the example holds no tensor; {type(module).__name__}.forward{forward} needs one")
    absent = [p.name for p in forward.parameters.values() if p.default is None and bound.arguments.get(p.name) is None]
    return Arguments(tuple(leaves), tuple(places), structure, tuple(absent))


def _outermost(forward: Any) -> inspect.Signature:
    """What a decorator around forward takes, who makes of it what forward wants."""
    code = getattr(getattr(forward, "__func__", forward), "__code__", None)
    if code is None or not code.co_flags & inspect.CO_VARKEYWORDS:
        return inspect.signature(forward)
    kinds = {"args": inspect.Parameter.VAR_POSITIONAL, "kwargs": inspect.Parameter.VAR_KEYWORD}
    return inspect.Signature([inspect.Parameter(name, kind) for name, kind in kinds.items()])


def _fits(signature: inspect.Signature, *args: Any, **kwargs: Any) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _paths(bound: inspect.BoundArguments, renamed: dict[str, str]) -> list[Path]:
    """Where each flat argument is, forward's own name for the argument first."""
    paths: list[Path] = []
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        below = [plain_path(path) for path, _ in pytree.tree_flatten_with_path(value)[0]]
        paths.extend(below if kind is inspect.Parameter.VAR_KEYWORD else [(renamed.get(name, name), *path) for path in below])
    return paths


def _names(paths: Sequence[Path]) -> list[str]:
    """A name for each flat argument: forward's own name for it, what it is within that behind it."""
    names = [re.sub(r"\W", "_", "_".join(str(part).removeprefix(".") for part in path)) for path in paths]
    numbered = [f"{path[0]}_{sum(other[0] == path[0] for other in paths[:n])}" for n, path in enumerate(paths)]
    return names if len(set(names)) == len(names) else numbered
