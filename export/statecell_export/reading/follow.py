"""Follow: what was computed from what, operator by operator, whatever the values are."""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

_SHAPED = {"new_zeros", "new_ones", "new_empty", "new_full", "zeros_like", "ones_like", "empty_like", "full_like", "sym_size"}
"""Operators whose result depends on the shape of what they are given, and not on its values."""

_MOVES = {
    *("alias", "as_strided", "cat", "clone", "constant_pad_nd", "copy", "copy_", "detach", "expand", "flip", "index_select"),
    *("lift_fresh", "masked_fill", "narrow", "permute", "repeat", "reshape", "roll", "select", "select_scatter", "slice"),
    *("slice_scatter", "split", "split_with_sizes", "squeeze", "stack", "t", "transpose", "unbind", "unfold", "unsqueeze"),
    *("view", "where", "_reshape_alias", "_to_copy", "_unsafe_view"),
}
"""Operators that hand on values as they are."""

Sources = frozenset[str]


class Follow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within `with follow:`, `follow.sources(tensor)` names all that a tensor was computed from, and `follow.holds(tensor)`
    those whose values are in it as they were, moved, cut or joined with others.
    """

    def __init__(self, sources: Mapping[str, Sequence[Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._of: MutableMapping[Tensor, Sources] = WeakIdKeyDictionary()
        self._written: dict[int, Sources] = {}  # by storage: what was written into it in place
        self._kept: list[Tensor] = []  # so that no storage is used again
        self._held: MutableMapping[Tensor, Sources] = WeakIdKeyDictionary()
        for name, tensors in sources.items():
            for tensor in tensors:
                self._of[tensor] = self.sources(tensor) | {name}
                self.mark(name, tensor)

    def mark(self, name: str, tensor: Tensor) -> None:
        """From here on, `holds` knows it by this name."""
        self._held[tensor] = self.holds(tensor) | {name}

    def holds(self, tensor: Tensor) -> Sources:
        held: Sources = self._held[tensor] if tensor in self._held else Sources()
        return held

    def sources(self, tensor: Tensor) -> Sources:
        written = self._written and self._written.get(tensor.untyped_storage().data_ptr())
        computed: Sources = self._of[tensor] if tensor in self._of else Sources()
        return computed | (written or Sources())

    def reads(self, operator: str, sources: Sources) -> None:
        """An operator is about to be run on what was computed from these."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        given = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        sources: Sources = frozenset().union(*map(self.sources, given))
        if sources:
            self.reads(name, sources)
        result = func(*args, **(kwargs or {}))
        if not sources or name in _SHAPED:
            return result
        if name in _MOVES:
            moved: Sources = frozenset().union(*map(self.holds, given))
            for leaf in tree_leaves(result) if moved else ():
                if isinstance(leaf, Tensor):
                    self._held[leaf] = self.holds(leaf) | moved
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._of[leaf] = self.sources(leaf) | sources
        if func._schema.is_mutable:
            for tensor in given:
                place = tensor.untyped_storage().data_ptr()
                self._written[place] = self._written.get(place, frozenset()) | sources
            self._kept += given
        return result
