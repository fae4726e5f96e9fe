"""Branches: where forward decides by the values of its inputs, which a trace would decide once and for all."""

import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from statecell_export.reading.example import Arguments

_READS = {"_local_scalar_dense", "is_nonzero", "equal", "item"}
"""Operators that give Python a value."""
_SHAPED = {"new_zeros", "new_ones", "new_empty", "new_full", "zeros_like", "ones_like", "empty_like", "full_like", "sym_size"}
"""Operators whose result depends on the shape of what they are given, and not on its values."""
_TORCH = str(Path(torch.__file__).parent)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows what is computed from the inputs, operator by operator, until a value of it is asked for."""

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = ""
        self.checking = False  # within a function that looks at values only to refuse some of them
        self._from_inputs = WeakIdKeyDictionary()
        for tensor in inputs:
            self._from_inputs[tensor] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        given = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        depends = any(tensor in self._from_inputs for tensor in given)
        if depends and name in _READS and not self.found and not self.checking:
            self.found = _line()
        result = func(*args, **(kwargs or {}))
        if depends and name not in _SHAPED:
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self._from_inputs[leaf] = True
        return result


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


def _line() -> str:
    """The line of the caller's own code that asks; "" where PyTorch's own does, for packed sequences."""
    own = ("branches.py", *(f"{_TORCH}/{part}" for part in ("utils/", "_compile", "_dynamo/", "_tensor", "_ops")))
    frames = [frame for frame in traceback.extract_stack() if not any(part in frame.filename for part in own)]
    if frames[-1].filename.startswith(_TORCH):
        return ""
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}"


def branch(module: nn.Module, arguments: Arguments) -> str:
    """The first place where forward decides by values, as file:line: code; "" where it does nowhere."""
    tensors = {leaf.name: leaf.value.clone() for leaf in arguments.leaves}
    args, kwargs = arguments.filled(tensors)
    watch = _Watch(list(tensors.values()))
    with torch.no_grad(), watch, _Checks(watch):
        module(*args, **kwargs)
    return watch.found
