"""Kept: states that a module leaves in its own attributes for the next call, made arguments and results of it."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from statecell.spec import Shape
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from statecell_export.errors import ExampleError, ModuleRefusedError
from statecell_export.reading.axes import SIZES, NoSymbolError, symbolic
from statecell_export.reading.example import Arguments, Leaf
from statecell_export.reading.follow import Follow
from statecell_export.reading.lift import Named, aside
from statecell_export.reading.naming import with_axes, with_lengths
from statecell_export.reading.observe import observe
from statecell_export.reading.results import plain
from statecell_export.reading.wrapper import Wrapper

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
    names: tuple[str, ...]  # a state for each of them; none where it is no tensor, but follows from a call's sizes
    begins: tuple[float, ...] = ()  # with what each of them is filled in the module as it is

    @property
    def plain(self) -> bool:
        """Whether it is a number, a flag or the like that one call sets as any other call of the same sizes does."""
        return not self.names

    def __deepcopy__(self, _: Any) -> "Slot":
        return self  # nobody changes it


class Kept(Wrapper):
    """`module`, whose calls begin with the states that they are given, or where none are, as a new module does.

    It gives (the module's results, the states' next values by name).
    """

    def __init__(self, module: nn.Module, slots: Sequence[Slot]) -> None:
        super().__init__()
        self.module = module
        self._slots = tuple(slots)
        dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
        self._begins = [pytree.tree_map(lambda leaf: _as_float(leaf, dtype), _get(module, slot)) for slot in slots]
        for slot, begin in zip(slots, self._begins, strict=True):
            _set(module, slot, begin)
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = kwargs.pop(STATES, None)
        settled = self._settled(args, kwargs) if given is not None else {}
        try:
            for slot, begin in zip(self._slots, self._begins, strict=True):
                later = (
                    settled[slot] if slot in settled else _filled(slot, given) if given is not None and slot.names else begin
                )
                _set(self.module, slot, later if later is not begin else copy.deepcopy(begin))
            result = self.module(*args, **kwargs)
            after: dict[str, Any] = {}
            for slot in self._slots:
                if slot.plain:
                    continue
                leaves, structure = pytree.tree_flatten(_get(self.module, slot))
                if structure != slot.structure:
                    raise ModuleRefusedError(f"self.{_name(slot)} has another structure after another call")
                after |= dict(zip(slot.names, leaves, strict=True))
        finally:
            for slot, begin in zip(self._slots, self._begins, strict=True):
                _set(self.module, slot, begin)
        return plain(result), after

    def _settled(self, args: Any, kwargs: Any) -> dict[Slot, Any]:
        """What an earlier call of the same sizes has left in the plain attributes."""
        if not any(slot.plain for slot in self._slots):
            return {}
        with aside():
            used = copy.deepcopy(self.module)
            args, kwargs = pytree.tree_map(
                lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, (args, kwargs)
            )
            used(*args, **kwargs)
        return {slot: _get(used, slot) for slot in self._slots if slot.plain}


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
    live = tuple(replace(slot, begins=_begins(module, slot)) for slot in live)
    return (*live, *_plain(module, used, arguments)) if live else ()


def _plain(module: nn.Module, used: nn.Module, arguments: Arguments) -> list[Slot]:
    """Attributes that are no tensors, and that a first call changed and a second one of the same sizes leaves as they are."""
    first = {place: value for place, value in _attributes(used) if _is_plain(value)}
    again = copy.deepcopy(used)
    args, kwargs = copy.deepcopy(arguments.filled({leaf.name: leaf.value for leaf in arguments.leaves}))
    with torch.no_grad():
        try:
            again(*args, **kwargs)
        except Exception:  # by what was left: so it did not settle
            return []
    second, before = dict(_attributes(again)), dict(_attributes(module))
    structure = pytree.tree_structure(None)
    return [
        Slot(*place, structure, ())
        for place, value in first.items()
        if _is_plain(before.get(place)) and before.get(place) != value and second.get(place) == value
    ]


def _is_plain(value: Any) -> bool:
    return all(leaf is None or isinstance(leaf, bool | int | float | str) for leaf in pytree.tree_leaves(value))


def wrapped(module: nn.Module, slots: Sequence[Slot]) -> nn.Module:
    """The module with these states among its arguments and results; itself, where there are none."""
    if not slots:
        return module
    kind: type[Kept] = type(type(module).__name__, (Kept,), {})  # errors name what the user knows
    return kind(module, slots)


def with_states(module: Any, slots: Sequence[Slot], arguments: Arguments) -> Arguments:
    """The arguments and, behind them, the states of the slots, whose axes are told from calls of several sizes."""
    if not slots:
        return arguments
    generator = torch.Generator().manual_seed(0)
    values = {leaf.name: leaf.value for leaf in arguments.leaves}
    first = observe(module, arguments, values)
    try:
        arguments = with_axes(module, with_lengths(module, arguments, first), first, generator, frozenset(names(slots)))
    except ExampleError as error:
        if held := [
            slot for slot in slots if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(_get(module.module, slot)))
        ]:
            error.add_note(
                f"self.{_name(held[0])} is not empty in the module as it is: where it holds what an earlier call left, set it "
                "to None before the export"
            )
        raise
    after = []
    for seq_len, batch in SIZES:
        drawn = {leaf.name: leaf.sized(seq_len=seq_len, batch=batch, generator=generator) for leaf in arguments.leaves}
        args, kwargs = arguments.filled(drawn)
        with torch.no_grad():
            try:
                after.append(module(*args, **kwargs)[1])
            except Exception as error:
                where = ", ".join(f"self.{_name(slot)}" for slot in slots if not slot.plain)
                raise ModuleRefusedError(
                    f"forward keeps a state in {where} and fails on a batch of {batch} and seq_len of {seq_len} ({error}); let "
                    "it begin with None, of which forward makes zeros of x's batch"
                ) from error
    args, kwargs = arguments.filled(values)
    with torch.no_grad():
        shown = module(*args, **kwargs)[1]
    initial = {name: begin for slot in slots for name, begin in zip(slot.names, slot.begins, strict=True)}
    leaves = [
        Leaf(name, torch.full_like(value, initial[name]), _shape(name, after), path=(name,), initial=initial[name])
        for name, value in shown.items()
    ]
    places = {name: Named(name) for slot in slots for name in slot.names}
    args, kwargs = arguments.filled({leaf.name: Named(leaf.name) for leaf in arguments.leaves})  # type: ignore[misc]
    flat, structure = pytree.tree_flatten((args, {**kwargs, STATES: places}))
    return Arguments((*arguments.leaves, *leaves), tuple(flat), structure)


def without_states(arguments: Arguments, original: Arguments) -> Arguments:
    """The original ones, with what was found of their axes since."""
    found = {leaf.name: leaf for leaf in arguments.leaves}
    return replace(original, leaves=tuple(found[leaf.name] for leaf in original.leaves))


def names(slots: Sequence[Slot]) -> set[str]:
    """Of all their states."""
    return {name for slot in slots for name in slot.names}


def lines(slots: Sequence[Slot]) -> list[str]:
    """Which result carries on which state, as the caller would say it."""
    return [f"{name}:{name}" for slot in slots for name in slot.names]


def evidence(slots: Sequence[Slot]) -> dict[str, str]:
    """Of each state, how it was found."""
    return {
        name: f"what forward leaves in self.{_name(slot)}, begun with {f'{begin:g}' if begin else 'zeros'}"
        for slot in slots
        for name, begin in zip(slot.names, slot.begins, strict=True)
    }


def told(slots: Sequence[Slot]) -> str:
    """Of an export that is wrong, what may be the reason."""
    names = ", ".join(f"self.{_name(slot)}" for slot in slots if not slot.plain)
    return (
        f"; it keeps a state in {names}, which begins with zeros in a new session, or with the number that fills it now: where "
        "forward begins it with anything else, take it as an argument and return it"
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


def _begins(module: nn.Module, slot: Slot) -> tuple[float, ...]:
    """With what a new session begins, as a new module does: None, of which forward makes zeros, or one number everywhere."""
    begin = [leaf for leaf in pytree.tree_leaves(_get(module, slot)) if isinstance(leaf, Tensor) and leaf.numel()]
    if any(bool(torch.any(leaf != leaf.flatten()[0])) for leaf in begin):
        raise ModuleRefusedError(
            f"forward keeps a state in self.{_name(slot)}, which holds various numbers in the module as it is: a session would "
            "not begin like that; set it to None or to one number everywhere before the export, or take it as an argument and "
            "return it"
        )
    filled = [float(leaf.flatten()[0]) for leaf in begin]
    return tuple(filled) if len(filled) == len(slot.names) else (0.0,) * len(slot.names)


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


def _copied(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def _as_float(leaf: Any, dtype: torch.dtype) -> Any:
    """As the module's weights are: what it keeps in a list is left behind where those are cast."""
    return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _filled(slot: Slot, given: dict[str, Tensor]) -> Any:
    """Clones: forward may write into them, and what it was given must stay."""
    return pytree.tree_unflatten([given[name].clone() for name in slot.names], slot.structure)


def _name(slot: Slot) -> str:
    return f"{slot.path}.{slot.attribute}" if slot.path else slot.attribute
