"""Kept: states that a module leaves in its own attributes for the next call, made arguments and results of it."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from statecell.spec import Shape
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from statecell_export.errors import ModuleRefusedError
from statecell_export.reading.axes import SIZES, NoSymbolError, symbolic
from statecell_export.reading.example import Arguments, Leaf
from statecell_export.reading.follow import Follow
from statecell_export.reading.lift import Named
from statecell_export.reading.naming import with_axes, with_lengths
from statecell_export.reading.observe import observe
from statecell_export.reading.results import plain

STATES = "statecell_states"
"""The keyword by which a Kept takes its states."""


class _Missing:
    """In place of what a new module does not have before its first call."""


@dataclass(frozen=True)
class Slot:
    """An attribute of the submodule at `path` that one call leaves for the next."""

    path: str
    attribute: str
    structure: Any  # of the tensors in it, after a call
    names: tuple[str, ...]  # a state for each of them

    def __deepcopy__(self, _: Any) -> "Slot":
        return self  # nobody changes it


class Kept(nn.Module):
    """`module`, whose calls begin with the states that they are given, or where none are, as a new module does.

    It gives (the module's results, the states' next values by name).
    """

    def __init__(self, module: nn.Module, slots: Sequence[Slot]) -> None:
        super().__init__()
        self.module = module
        self._slots = tuple(slots)
        self._begins = [_get(module, slot) for slot in slots]
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = kwargs.pop(STATES, None)
        try:
            for slot, begin in zip(self._slots, self._begins, strict=True):
                _set(self.module, slot, copy.deepcopy(begin) if given is None else _filled(slot, given))
            result = self.module(*args, **kwargs)
            after: dict[str, Any] = {}
            for slot in self._slots:
                leaves, structure = pytree.tree_flatten(_get(self.module, slot))
                if structure != slot.structure:
                    raise ModuleRefusedError(f"self.{_name(slot)} has another structure after another call")
                after |= dict(zip(slot.names, leaves, strict=True))
        finally:
            for slot, begin in zip(self._slots, self._begins, strict=True):
                _set(self.module, slot, begin)
        return plain(result), after


def find(module: nn.Module, arguments: Arguments) -> tuple[Slot, ...]:
    """What a call of the module leaves in it that the next call looks at. Raises ModuleRefusedError where that is no state."""
    used = copy.deepcopy(module)
    args, kwargs = copy.deepcopy(arguments.filled({leaf.name: leaf.value for leaf in arguments.leaves}))
    before = {place: (value, _versions(value)) for place, value in _attributes(used)}
    with torch.no_grad():
        try:
            used(*args, **kwargs)
        except Exception:  # which is said where forward is observed
            return ()
    slots: list[Slot] = []
    for (path, attribute), value in _attributes(used):
        old, versions = before.get((path, attribute), (None, ()))
        leaves, structure = pytree.tree_flatten(value)
        if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
            continue
        if old is value and versions == _versions(value):
            continue
        name = _name(Slot(path, attribute, structure, ()))
        below = name.replace(".", "_").strip("_")
        names = (below,) if len(leaves) == 1 else tuple(f"{below}_{number}" for number in range(len(leaves)))
        slots.append(Slot(path, attribute, structure, names))
    live = tuple(slot for slot in slots if _is_read(used, slots, slot, arguments))
    for slot in live:
        _check_begin(module, slot)
    return live


def wrapped(module: nn.Module, slots: Sequence[Slot]) -> nn.Module:
    """The module with these states among its arguments and results; itself, where there are none."""
    if not slots:
        return module
    kind: type[Kept] = type(type(module).__name__, (Kept,), {})  # errors name what the user knows
    return kind(module, slots)


def with_states(module: nn.Module, slots: Sequence[Slot], arguments: Arguments) -> Arguments:
    """The arguments and, behind them, the states of the slots, whose axes are told from calls of several sizes."""
    if not slots:
        return arguments
    generator = torch.Generator().manual_seed(0)
    values = {leaf.name: leaf.value for leaf in arguments.leaves}
    first = observe(module, arguments, values)
    arguments = with_axes(module, with_lengths(module, arguments, first), first, generator)
    after = []
    for seq_len, batch in SIZES:
        drawn = {leaf.name: leaf.sized(seq_len=seq_len, batch=batch, generator=generator) for leaf in arguments.leaves}
        args, kwargs = arguments.filled(drawn)
        with torch.no_grad():
            try:
                after.append(module(*args, **kwargs)[1])
            except Exception as error:
                names = ", ".join(f"self.{_name(slot)}" for slot in slots)
                raise ModuleRefusedError(
                    f"forward keeps a state in {names} and fails on a batch of {batch} and seq_len of {seq_len} ({error}); let "
                    "it begin with None, of which forward makes zeros of x's batch"
                ) from error
    args, kwargs = arguments.filled(values)
    with torch.no_grad():
        shown = module(*args, **kwargs)[1]
    leaves = [Leaf(name, torch.zeros_like(value), _shape(name, after)) for name, value in shown.items()]
    places = {name: Named(name) for slot in slots for name in slot.names}
    args, kwargs = arguments.filled({leaf.name: Named(leaf.name) for leaf in arguments.leaves})  # type: ignore[misc]
    flat, structure = pytree.tree_flatten((args, {**kwargs, STATES: places}))
    return Arguments((*arguments.leaves, *leaves), tuple(flat), structure)


def without_states(arguments: Arguments, original: Arguments) -> Arguments:
    """The original ones, with what was found of their axes since."""
    found = {leaf.name: leaf for leaf in arguments.leaves}
    return replace(original, leaves=tuple(found[leaf.name] for leaf in original.leaves))


def lines(slots: Sequence[Slot]) -> list[str]:
    """Which result carries on which state, as the caller would say it."""
    return [f"{name}:{name}" for slot in slots for name in slot.names]


def evidence(slots: Sequence[Slot]) -> dict[str, str]:
    """Of each state, how it was found."""
    return {name: f"what forward leaves in self.{_name(slot)}, begun with zeros" for slot in slots for name in slot.names}


def told(slots: Sequence[Slot]) -> str:
    """Of an export that is wrong, what may be the reason."""
    names = ", ".join(f"self.{_name(slot)}" for slot in slots)
    return (
        f"; it keeps a state in {names}, which begins with zeros in a new session: where forward begins it with anything else, "
        "take it as an argument and return it"
        if slots
        else ""
    )


def _shape(name: str, after: list[dict[str, Tensor]]) -> Shape:
    try:
        return symbolic([tuple(one[name].shape) for one in after])
    except NoSymbolError as error:
        raise ModuleRefusedError(
            f"self.{name}, which forward keeps for its next call, {error}; keep what has no time axis"
        ) from None


def _is_read(used: nn.Module, slots: Sequence[Slot], slot: Slot, arguments: Arguments) -> bool:
    """Whether what the next call gives, or leaves in any slot, was computed from what is in this one."""
    module = copy.deepcopy(used)
    kept = [leaf for leaf in pytree.tree_leaves(_get(module, slot)) if isinstance(leaf, Tensor)]
    args, kwargs = copy.deepcopy(arguments.filled({leaf.name: leaf.value for leaf in arguments.leaves}))
    follow = Follow({"kept": kept})
    with torch.no_grad(), follow:
        try:
            result = module(*args, **kwargs)
        except Exception:  # by what was left: so it was read
            return True
    others = [_get(module, other) for other in slots]
    leaves = [leaf for leaf in pytree.tree_leaves((plain(result), others)) if isinstance(leaf, Tensor)]
    return any(follow.sources(leaf) for leaf in leaves if not any(leaf is old for old in kept))


def _check_begin(module: nn.Module, slot: Slot) -> None:
    """A new session begins with zeros, and so must a new module: None, of which forward makes zeros, or zeros of its own."""
    begin = [leaf for leaf in pytree.tree_leaves(_get(module, slot)) if isinstance(leaf, Tensor)]
    if any(bool(torch.any(leaf)) for leaf in begin):
        raise ModuleRefusedError(
            f"forward keeps a state in self.{_name(slot)}, which is not zero in the module as it is: a session would not begin "
            "like that; set it to None or zeros before the export, or take it as an argument and return it"
        )


def _attributes(module: nn.Module) -> Iterator[tuple[tuple[str, str], Any]]:
    """All that is no parameter and no submodule, by (path, name)."""
    for path, child in module.named_modules():
        for name, value in [*child._buffers.items(), *vars(child).items()]:
            if not name.startswith("_") or isinstance(value, Tensor | tuple | list | dict):
                if name in {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_flat_weights"}:
                    continue
                yield (path, name), value


def _versions(value: Any) -> tuple[int, ...]:
    """Changed by whatever is written into a tensor."""
    return tuple(leaf._version for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))


def _get(module: nn.Module, slot: Slot) -> Any:
    child = module.get_submodule(slot.path)
    return child._buffers[slot.attribute] if slot.attribute in child._buffers else vars(child).get(slot.attribute, _Missing)


def _set(module: nn.Module, slot: Slot, value: Any) -> None:
    child = module.get_submodule(slot.path)
    if slot.attribute in child._buffers:
        child._buffers[slot.attribute] = value
    elif value is _Missing:
        vars(child).pop(slot.attribute, None)
    else:
        vars(child)[slot.attribute] = value


def _filled(slot: Slot, given: dict[str, Tensor]) -> Any:
    """Clones: forward may write into them, and what it was given must stay."""
    return pytree.tree_unflatten([given[name].clone() for name in slot.names], slot.structure)


def _name(slot: Slot) -> str:
    return f"{slot.path}.{slot.attribute}" if slot.path else slot.attribute
