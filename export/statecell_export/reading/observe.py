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
from statecell_export.reading.results import Path, plain, plain_path


@dataclass(frozen=True)
class Root:
    """How a chain of recurrent calls began, and how far it went."""

    module: Recurrent
    states: States | None
    batch: int | None
    seq_len: int
    packed: bool
    first: int  # how long its first call was
    sources: Sources = frozenset()  # what its states were computed from: names of arguments, or ITSELF; where that was followed
    holds: tuple[Sources, ...] = ()  # whose values are in each of them as they were


@dataclass(frozen=True)
class Observation:
    """One run of forward."""

    roots: tuple[Root, ...]
    latest: tuple[States, ...]
    results: tuple[Any, ...]
    keys: tuple[str, ...]  # the key or field of each result, "" where it has none
    paths: tuple[Path, ...]  # where each result is in what forward returned
    tensors: dict[str, Tensor]  # the very ones that it was given
    sources: tuple[Sources, ...] = ()  # what each result was computed from, where that was followed
    holds: tuple[Sources, ...] = ()  # whose values are in it as they were: arguments', and the `passed(chain, state)` of chains

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
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}  # forward may write into them
    own = [*module.parameters(), *module.buffers()]
    following = Follow({name: [tensor] for name, tensor in tensors.items()} | {ITSELF: own} if follow else {})

    def intercept(run: Run, called: Recurrent, input: Any, states: States | None) -> Any:
        number = chains.find(called, states)
        seq_len, batch, packed = _sizes(called, input)
        if number is None:
            number = len(roots)
            sources = frozenset[str]().union(*map(following.sources, states or ()))
            holds = tuple(map(following.holds, states or ()))
            roots.append(Root(called, states, batch, seq_len, packed, seq_len, sources, holds))
            chains.roots.append((called, ()))
        else:
            roots[number] = replace(roots[number], seq_len=roots[number].seq_len + seq_len)
        result = run(called, input, states)
        chains.roots[number] = (called, states_of(called, result))
        for place, state in enumerate(states_of(called, result) if follow else ()):
            following.mark(passed(number, place), state)
        return result

    args, kwargs = arguments.filled(tensors)
    with torch.no_grad(), intercepted(intercept), following if follow else contextlib.nullcontext():
        try:
            results, _ = pytree.tree_flatten_with_path(plain(module(*args, **kwargs)))
        except Exception as error:
            shapes = ", ".join(f"{k} {dtype_name(v.dtype)}{list(v.shape)}" for k, v in tensors.items())
            raise ExampleError(f"{type(module).__name__}.forward fails on {shapes}: {error}") from error
    paths = tuple(plain_path(path) for path, _ in results)
    tensors_of = [value if isinstance(value, Tensor) else torch.empty(0) for _, value in results]
    return Observation(
        tuple(roots),
        tuple(latest for _, latest in chains.roots),
        *_keyed(results),
        paths,
        tensors,
        tuple(map(following.sources, tensors_of)),
        tuple(map(following.holds, tensors_of)),
    )


def passed(chain: int, state: int) -> str:
    """The name by which it is followed what a chain of recurrent calls gave back as one of its states."""
    return f"{chain}/{state}"


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
