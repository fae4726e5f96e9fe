"""Branches: where forward decides by the values of its inputs, which a trace would decide once and for all."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from statecell_export.judging.lines import asking
from statecell_export.reading.example import Arguments
from statecell_export.reading.follow import Follow, Sources

_READS = {"_local_scalar_dense", "is_nonzero", "equal", "item"}
"""Operators that give Python a value."""


@dataclass(frozen=True)
class Branch:
    """Where forward decides by values, as file:line: code, "" for nowhere; and the arguments whose values they are made of."""

    line: str = ""
    arguments: tuple[str, ...] = ()


class _Watch(Follow):  # type: ignore[no-untyped-call]
    """Until a value of what is computed from the inputs is asked for."""

    def __init__(self, inputs: dict[str, Tensor]) -> None:
        super().__init__({name: [tensor] for name, tensor in inputs.items()})
        self.found = Branch()
        self.checking = False  # within a function that looks at values only to refuse some of them

    def reads(self, operator: str, sources: Sources) -> None:
        if operator in _READS and not self.found.line and not self.checking:
            self.found = Branch(asking(), tuple(sorted(sources)))


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


def branch(module: nn.Module, arguments: Arguments) -> Branch:
    """The first place where forward decides by values."""
    tensors = {leaf.name: leaf.value.clone() for leaf in arguments.leaves}
    args, kwargs = arguments.filled(tensors)
    watch = _Watch({leaf.name: tensors[leaf.name] for leaf in arguments.leaves if not leaf.constant})
    with torch.no_grad(), watch, _Checks(watch):
        module(*args, **kwargs)
    return watch.found
