"""Outside: where forward hands values to NumPy or to Python's lists and computes with what comes back."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from statecell_export.judging.lines import asking
from statecell_export.reading.example import Arguments
from statecell_export.reading.follow import Follow
from statecell_export.reading.results import plain

_EXITS = {Tensor.numpy, Tensor.tolist, Tensor.__array__}
"""What gives a tensor's values to whom PyTorch does not know. Scalars (`item`, `if x > 0`) are branches."""


class _Exits(TorchFunctionMode):
    """Knows the exits, and gives out other values than are there where it is to."""

    def __init__(self, follow: Follow, *, other: bool) -> None:
        super().__init__()
        self._follow = follow
        self._other = other
        self.found = ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _EXITS and self._follow.sources(args[0]):
            self.found = self.found or asking()
            if self._other:
                changed = (
                    ~args[0] if args[0].dtype is torch.bool else 1 - 3 * args[0]
                )  # which leaves neither sum nor spread nor order
                return func(changed, *args[1:], **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def outside(module: nn.Module, arguments: Arguments) -> str:
    """The first place where values leave that forward's results depend on, as file:line: code; "" where there is none.

    What is only kept or shown there changes nothing: a second call is given other values at the exits, and compared.
    """
    tensors = {leaf.name: leaf.value.clone() for leaf in arguments.leaves}
    found, seen = _call(module, arguments, tensors, other=False)
    if not found:
        return ""
    try:
        _, others = _call(module, arguments, tensors, other=True)
    except Exception:  # by the other values: so they came back
        return found
    same = len(seen) == len(others) and all(torch.equal(a, b) for a, b in zip(seen, others, strict=True))
    return "" if same else found


def _call(module: nn.Module, arguments: Arguments, tensors: dict[str, Tensor], *, other: bool) -> tuple[str, list[Tensor]]:
    given = {name: tensor.clone() for name, tensor in tensors.items()}
    args, kwargs = arguments.filled(given)
    follow = Follow({"inputs": list(given.values())})
    exits = _Exits(follow, other=other)
    with torch.no_grad(), follow, exits:
        results = plain(module(*args, **kwargs))
    return exits.found, [leaf.clone() for leaf in pytree.tree_leaves(results) if isinstance(leaf, Tensor)]
