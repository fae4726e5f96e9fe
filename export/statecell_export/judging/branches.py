"""Branches: where forward decides by the values of its inputs, which a trace would decide once and for all."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from statecell_export.judging.lines import asking
from statecell_export.reading.example import Arguments
from statecell_export.reading.follow import Follow, Sources

_READS = {"_local_scalar_dense", "is_nonzero", "equal", "item"}
"""Operators that give Python a value."""


class _Watch(Follow):  # type: ignore[no-untyped-call]
    """Until a value of what is computed from the inputs is asked for."""

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__({"inputs": inputs})
        self.found = ""
        self.checking = False  # within a function that looks at values only to refuse some of them

    def reads(self, operator: str, sources: Sources) -> None:  # noqa: ARG002
        if operator in _READS and not self.found and not self.checking:
            self.found = asking()


class _Checks(TorchFunctionMode):
    """Knows the functions that look at values and do the same whatever they are, or fail."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        classes = given.get("num_classes", args[1] if len(args) > 1 else -1) if func is torch.nn.functional.one_hot else -1
        if classes == -1:  # where they are not given, the largest value decides
            return func(*args, **given)
        self._watch.checking = True
        try:
            return func(*args, **given)
        finally:
            self._watch.checking = False


def branch(module: nn.Module, arguments: Arguments) -> str:
    """The first place where forward decides by values, as file:line: code; "" where it does nowhere."""
    tensors = {leaf.name: leaf.value.clone() for leaf in arguments.leaves}
    args, kwargs = arguments.filled(tensors)
    watch = _Watch(list(tensors.values()))
    with torch.no_grad(), watch, _Checks(watch):
        module(*args, **kwargs)
    return watch.found
