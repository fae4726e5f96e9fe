"""Written: states that forward changes in place, or replaces in the dict or list that holds them, made results of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from statecell_export.reading.example import Arguments
from statecell_export.reading.follow import Follow
from statecell_export.reading.lift import Named
from statecell_export.reading.results import plain
from statecell_export.reading.wrapper import Wrapper


@dataclass(frozen=True)
class Changed:
    """Arguments that forward changes, by their places among its flat ones: states by name, and others."""

    states: dict[str, int] = field(default_factory=dict)
    others: tuple[int, ...] = ()


class Written(Wrapper):
    """`module`, which is given copies of these arguments, and gives (its results, what it left in the copies by name).

    A result that is such a copy itself is None: it is among the others.
    """

    def __init__(self, module: nn.Module, found: Changed) -> None:
        super().__init__()
        self.module = module
        self._found = found
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        flat, structure = pytree.tree_flatten((args, kwargs))
        for place in (*self._found.states.values(), *self._found.others):
            flat[place] = flat[place].clone()
        args, kwargs = pytree.tree_unflatten(flat, structure)
        result = plain(self.module(*args, **kwargs))
        after = pytree.tree_leaves((args, kwargs))
        left = {name: after[place] for name, place in self._found.states.items()}
        copies = {id(tensor) for tensor in left.values()}
        return pytree.tree_map(lambda leaf: None if id(leaf) in copies else leaf, result), left


def find(module: nn.Module, arguments: Arguments) -> Changed:
    """The arguments into which forward writes: states, where it is computed from others.

    An input that is written over by what is made of itself (x.sub_(mean)) is no state: nothing of it is of use to a later call.
    """
    tensors = {leaf.name: leaf.value.clone() for leaf in arguments.leaves}
    args, kwargs = arguments.filled(tensors)
    versions = {name: tensor._version for name, tensor in tensors.items()}
    follow = Follow({name: [tensor] for name, tensor in tensors.items()})
    with torch.no_grad(), follow:
        try:
            module(*args, **kwargs)
        except Exception:  # which is said where forward is observed
            return Changed()
    after = pytree.tree_leaves((args, kwargs))
    if len(after) != len(arguments.flat):
        return Changed()
    states, others = {}, []
    for place, (leaf, now) in enumerate(zip(arguments.flat, after, strict=True)):
        if not isinstance(leaf, Named) or not isinstance(now, Tensor):
            continue
        if now is tensors[leaf.name] and now._version == versions[leaf.name]:
            continue
        if leaf.name != arguments.leaves[0].name and follow.sources(now) - {leaf.name}:
            states[leaf.name] = place
        else:
            others.append(place)
    return Changed(states, tuple(others))


def wrapped(module: nn.Module, found: Changed) -> nn.Module:
    """The module with what it leaves in its states among its results; itself, where it changes no argument."""
    if found == Changed():
        return module
    kind: type[Written] = type(type(module).__name__, (Written,), {})  # errors name what the user knows
    return kind(module, found)


def lines(names: Sequence[str]) -> list[str]:
    """Which result carries on which state, as the caller would say it."""
    return [f"{name}:{name}" for name in names]


def evidence(names: Sequence[str]) -> dict[str, str]:
    """Of each state, how it was found."""
    return dict.fromkeys(names, "forward writes its next value into the argument itself")
