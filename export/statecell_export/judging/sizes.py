"""Sizes: where forward decides by how long or how wide its inputs are, which a trace would decide once and for all."""

import operator
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from statecell_export.judging.lines import asking
from statecell_export.reading.example import Arguments

LONGEST = 1100
"""Up to here a size is tried at which forward decides otherwise."""
_SEEN = {"seq_len": (1, 2, 5, 12, 33), "batch": (1, 2, 3, 7)}
"""Sizes that everything is run at anyway."""
_DRAWN = {"seq_len": 23, "batch": 29}
"""Sizes that hardly anything else in a module has."""
_COMPARED = {"__lt__": operator.lt, "__le__": operator.le, "__gt__": operator.gt, "__ge__": operator.ge} | {
    "__eq__": operator.eq,
    "__ne__": operator.ne,
}
_COMPUTED = {
    f"__{name}__": getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "abs")
}
_TURNED = {f"__r{name}__": getattr(operator, name) for name in ("add", "sub", "mul")}


@dataclass(frozen=True)
class Decision:
    """Sizes at which forward decides otherwise than at those that everything is run at, and where it does."""

    seq_len: int
    batch: int
    line: str


class _Size(int):
    """The size of an axis, or what was computed from it; knows what it would be were the axis of another size."""

    axis: str
    at: Callable[[int], Any]
    found: list[Decision]

    def like(self, value: Any, at: Callable[[int], Any]) -> Any:
        return _size(value, self.axis, at, self.found) if isinstance(value, int) and not isinstance(value, bool) else value

    def decided(self, compare: Callable[[Any, Any], bool], other: Any) -> None:
        """Note one size of each stretch that decides alike and has none of those that are run anyway."""
        line = asking()
        if not line or isinstance(other, _Size) or not isinstance(other, int | float):
            return
        stretch: list[int] = []
        for size in range(1, LONGEST + 2):
            if stretch and (size > LONGEST or compare(self.at(size), other) != compare(self.at(size - 1), other)):
                if not set(stretch) & set(_SEEN[self.axis]):
                    sizes = {"seq_len": 2, "batch": 1} | {self.axis: stretch[0]}
                    self.found.append(Decision(**sizes, line=line))
                stretch = []
            stretch.append(size)

    __hash__ = int.__hash__


def _size(value: int, axis: str, at: Callable[[int], Any], found: list[Decision]) -> _Size:
    size = _Size(value)
    size.axis, size.at, size.found = axis, at, found
    return size


def _comparing(name: str, compare: Callable[[Any, Any], bool]) -> Callable[[_Size, Any], Any]:
    def method(self: _Size, other: Any) -> Any:
        self.decided(compare, other)
        return getattr(int, name)(self, other)

    return method


def _computing(name: str, compute: Callable[..., Any], *, turned: bool = False) -> Callable[..., Any]:
    def method(self: _Size, *others: Any) -> Any:
        def at(size: int) -> Any:
            there = [other.at(size) if isinstance(other, _Size) and other.axis == self.axis else other for other in others]
            return compute(*there, self.at(size)) if turned else compute(self.at(size), *there)

        return self.like(getattr(int, name)(self, *others), at)

    return method


for _name, _of in _COMPARED.items():
    setattr(_Size, _name, _comparing(_name, _of))
for _name, _of in _COMPUTED.items():
    setattr(_Size, _name, _computing(_name, _of))
for _name, _of in _TURNED.items():
    setattr(_Size, _name, _computing(_name, _of, turned=True))


class _Sizes(TorchFunctionMode):
    """Gives out sizes that note what is decided by them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Decision] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is Tensor.__len__ and result in _DRAWN.values() and (line := asking()):  # Python makes a number of it
            axis = next(axis for axis, size in _DRAWN.items() if size == result)
            self.found.append(Decision(**({"seq_len": 2, "batch": 1} | {axis: 129}), line=line))
        if func is Tensor.size and isinstance(result, int):
            return self._sized(result)
        if func is Tensor.size or func == Tensor.shape.__get__:  # type: ignore[attr-defined]
            return torch.Size([self._sized(size) for size in result])
        return result

    def _sized(self, size: int) -> int:
        axis = next((axis for axis, drawn in _DRAWN.items() if drawn == size), "")
        return _size(size, axis, lambda other: other, self.found) if axis else size


def decisions(module: nn.Module, arguments: Arguments) -> list[Decision]:
    """Sizes that something else may be done at. `module` is run, and changed where it keeps a state."""
    generator = torch.Generator().manual_seed(3)
    given = {leaf.name: leaf.sized(**_DRAWN, generator=generator) for leaf in arguments.leaves}
    args, kwargs = arguments.filled(given)
    sizes = _Sizes()
    with suppress(Exception), torch.no_grad(), sizes:  # what it cannot be run at is found out elsewhere
        module(*args, **kwargs)
    return list(dict.fromkeys(sizes.found))
