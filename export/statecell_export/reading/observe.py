"""One run of a module, its recurrent calls watched."""

import contextlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from statecell_export.errors import ExampleError
from statecell_export.reading.example import Arguments
from statecell_export.reading.follow import Follow, Sources
from statecell_export.reading.lift import Chains, Run, States, intercepted, states_of
from statecell_export.reading.recurrent import Cell, Recurrent
from statecell_export.reading.results import plain


@dataclass(frozen=True)
class Root:
    """How a chain of recurrent calls began, and how far it went."""

    module: Recurrent
    states: States | None
    batch: int | None
    seq_len: int
    packed: bool
    sources: Sources = frozenset()  # what its states were computed from: names of arguments, or ITSELF; where that was followed


@dataclass(frozen=True)
class Observation:
    """One run of forward."""

    roots: tuple[Root, ...]
    latest: tuple[States, ...]
    results: tuple[Any, ...]
    keys: tuple[str, ...]  # the key or field of each result, "" where it has none
    paths: tuple[Any, ...]  # where each result is in what forward returned
    tensors: dict[str, Tensor]  # the very ones that it was given

    @property
    def sizes(self) -> tuple[int, int | None]:
        """The (seq_len, batch) that the first recurrent call saw."""
        return (self.roots[0].seq_len, self.roots[0].batch) if self.roots else (1, None)


ITSELF = ""
"""As a source: the module's own weights and buffers."""


def observe(module: nn.Module, arguments: Arguments, tensors: dict[str, Tensor], *, follow: bool = False) -> Observation:
    """Run forward once and watch its recurrent calls. Raises ExampleError where it does not take these tensors.

    follow: also what their states were computed from.
    """
    chains = Chains()
    roots: list[Root] = []
    own = [*module.parameters(), *module.buffers()]
    following = Follow({name: [tensor] for name, tensor in tensors.items()} | {ITSELF: own} if follow else {})

    def intercept(run: Run, called: Recurrent, input: Any, states: States | None) -> Any:
        number = chains.find(called, states)
        seq_len, batch, packed = _sizes(called, input)
        if number is None:
            number = len(roots)
            sources = frozenset[str]().union(*map(following.sources, states or ()))
            roots.append(Root(called, states, batch, seq_len, packed, sources))
            chains.roots.append((called, ()))
        else:
            roots[number] = replace(roots[number], seq_len=roots[number].seq_len + seq_len)
        result = run(called, input, states)
        chains.roots[number] = (called, states_of(called, result))
        return result

    args, kwargs = arguments.filled(tensors)
    with torch.no_grad(), intercepted(intercept), following if follow else contextlib.nullcontext():
        try:
            results, _ = pytree.tree_flatten_with_path(plain(module(*args, **kwargs)))
        except Exception as error:
            shapes = ", ".join(f"{k} {dtype_name(v.dtype)}{list(v.shape)}" for k, v in tensors.items())
            raise ExampleError(f"{type(module).__name__}.forward fails on {shapes}: {error}") from error
    paths = tuple(path for path, _ in results)
    return Observation(tuple(roots), tuple(latest for _, latest in chains.roots), *_keyed(results), paths, tensors)


def _keyed(results: list[tuple[Any, Any]]) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    keys = [getattr(path[-1], "key", getattr(path[-1], "name", "")) if path else "" for path, _ in results]
    return tuple(value for _, value in results), tuple(key if isinstance(key, str) else "" for key in keys)


def _sizes(module: Recurrent, input: Any) -> tuple[int, int | None, bool]:
    """(seq_len, batch, packed) of a recurrent call's input."""
    if isinstance(input, PackedSequence):
        return len(input.batch_sizes), int(input.batch_sizes[0]), True
    if isinstance(module, Cell):
        return 1, input.shape[0] if input.dim() == 2 else None, False
    if input.dim() == 2:
        return input.shape[0], None, False
    seq_len, batch = input.shape[:2][:: -1 if module.batch_first else 1]
    return seq_len, batch, False


def dtype_name(dtype: torch.dtype) -> str:
    """float32 of torch.float32."""
    return str(dtype).removeprefix("torch.")
