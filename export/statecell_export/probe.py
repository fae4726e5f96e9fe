"""What a module takes, gives and remembers, found by running it: its axes, its recurrent calls, its states."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from statecell.spec import BATCH, SEQ_LEN, ModelSpec, Shape, StateSpec, TensorSpec
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from statecell_export.errors import ExampleError, ModuleRefusedError
from statecell_export.example import Arguments, Leaf
from statecell_export.lift import (
    COMPUTED,
    GIVEN,
    LIFTED,
    Chain,
    Chains,
    Plan,
    Run,
    States,
    intercepted,
    next_name,
    paths,
    state_names,
    states_of,
)
from statecell_export.recurrent import Cell, Recurrent, is_bare

SIZES = ((5, 3), (7, 3), (5, 4))
"""The (seq_len, batch) pairs at which a module is run to find its axes."""


@dataclass(frozen=True)
class Root:
    """How a chain of recurrent calls began, and how far it went."""

    module: Recurrent
    states: States | None
    batch: int | None
    seq_len: int
    packed: bool


@dataclass(frozen=True)
class Observation:
    """One run of forward."""

    roots: tuple[Root, ...]
    latest: tuple[States, ...]
    results: tuple[Any, ...]
    keys: tuple[str, ...]  # the key or field of each result, "" where it has none

    @property
    def sizes(self) -> tuple[int, int | None]:
        """The (seq_len, batch) that the first recurrent call saw."""
        return (self.roots[0].seq_len, self.roots[0].batch) if self.roots else (1, None)


@dataclass(frozen=True)
class Probe:
    """A module's signature, and how its tensors map to forward's."""

    spec: ModelSpec
    plan: Plan
    leaves: tuple[Leaf, ...]  # one for each of the spec's inputs
    loops: bool  # forward calls a cell once for each time step
    packed: bool


def probe(module: nn.Module, arguments: Arguments, name: str) -> Probe:
    """Find axes, states and outputs of `module` (in eval mode). Raises ModuleRefusedError, ExampleError."""
    generator = torch.Generator().manual_seed(0)
    first = observe(module, arguments, {leaf.name: leaf.value for leaf in arguments.leaves})
    _same_again(module, arguments, first)
    arguments = _with_lengths(module, arguments, first)
    arguments = _with_axes(module, arguments, first, generator)

    def at(seq_len: int, batch: int, zero: frozenset[str] = frozenset()) -> Observation:
        tensors = {leaf.name: leaf.sized(seq_len=seq_len, batch=batch, generator=generator) for leaf in arguments.leaves}
        return observe(module, arguments, {k: v * 0 if k in zero else v for k, v in tensors.items()})

    seen = [at(*sizes) for sizes in SIZES]
    if len({len(one.roots) for one in seen}) > 1:
        raise ModuleRefusedError(_restless(module, seen))
    shapes = [_symbolic([tuple(one.results[i].shape) if _is_tensor(one.results[i]) else None for one in seen], i)
              for i in range(len(seen[0].results))]  # fmt: skip
    given = _given(module, arguments, seen[0], at, shapes)
    chains = _chains(module, seen, bool(given))
    if not chains and not given:
        raise _stateless(module)
    results = _results(seen[0], [place for _, place in given])
    state_leaves = {leaf_name for leaf_name, _ in given}
    renamed = _state_input_names([leaf_name for leaf_name, _ in given])
    inputs = tuple(leaf for leaf in arguments.leaves if leaf.name not in state_leaves)
    plan = Plan(
        arguments=arguments.flat,
        structure=arguments.structure,
        tensors=tuple(leaf.name for leaf in inputs),
        given=given,
        chains=chains,
        results=tuple(results),
    )
    by_name = {leaf.name: leaf for leaf in arguments.leaves}
    states = [_state(renamed[leaf], by_name[leaf].shape, by_name[leaf].value.dtype) for leaf, _ in given]
    for number, chain in enumerate(chains):
        states.extend(
            _state(n, shape, torch.float32) for n, shape in zip(chain.names, _chain_shapes(module, seen, number), strict=False)
        )
    if plan.started:
        states.append(_state("started", (BATCH, 1), torch.float32))
    spec = ModelSpec(
        name=name,
        inputs=tuple(TensorSpec(leaf.name, _dtype(leaf.value.dtype), leaf.shape or ()) for leaf in inputs),
        outputs=tuple(
            TensorSpec(output, _dtype(seen[0].results[place].dtype), shapes[place] or ())
            for output, place in zip(_output_names(seen[0], results), results, strict=True)
        ),
        states=tuple(states),
    )
    roots = list(zip(*(one.roots for one in seen), strict=True))
    loops = any(isinstance(root[0].module, Cell) and len({r.seq_len for r in root}) > 1 for root in roots)
    return Probe(spec, plan, inputs, loops, any(root.packed for root in seen[0].roots))


def _stateless(module: nn.Module) -> ModuleRefusedError:
    return ModuleRefusedError(
        f"{type(module).__name__} has no recurrent state: forward calls no nn.LSTM, nn.GRU, nn.RNN or cell of these, and "
        "takes no state; take the state as an argument of forward and return its next value, of the same shape"
    )


def observe(module: nn.Module, arguments: Arguments, tensors: dict[str, Tensor]) -> Observation:
    """Run forward once and watch its recurrent calls. Raises ExampleError where it does not take these tensors."""
    chains = Chains()
    roots: list[Root] = []

    def intercept(run: Run, called: Recurrent, input: Any, states: States | None) -> Any:
        number = chains.find(called, states)
        seq_len, batch, packed = _sizes(called, input)
        if number is None:
            number = len(roots)
            roots.append(Root(called, states, batch, seq_len, packed))
            chains.roots.append((called, ()))
        else:
            roots[number] = replace(roots[number], seq_len=roots[number].seq_len + seq_len)
        result = run(called, input, states)
        chains.roots[number] = (called, states_of(called, result))
        return result

    args, kwargs = arguments.filled(tensors)
    with torch.no_grad(), intercepted(intercept):
        try:
            results, _ = pytree.tree_flatten_with_path(module(*args, **kwargs))
        except Exception as error:
            shapes = ", ".join(f"{k} {_dtype(v.dtype)}{list(v.shape)}" for k, v in tensors.items())
            raise ExampleError(f"{type(module).__name__}.forward fails on {shapes}: {error}") from error
    return Observation(tuple(roots), tuple(latest for _, latest in chains.roots), *_keyed(results))


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


def _same_again(module: nn.Module, arguments: Arguments, first: Observation) -> None:
    again = observe(module, arguments, {leaf.name: leaf.value for leaf in arguments.leaves})
    for before, after in zip(first.results, again.results, strict=True):
        if _is_tensor(before) and not torch.equal(before, after):
            raise ModuleRefusedError(
                f"{type(module).__name__}.forward gives another result when called again with the same input: it draws random "
                "numbers (an initial state from torch.randn, dropout without training=self.training) or keeps state in self; "
                "start from zeros, and take a kept state as an argument and return it"
            )


def _with_lengths(module: nn.Module, arguments: Arguments, first: Observation) -> Arguments:
    """The arguments, the lengths of packed sequences among them marked as such."""
    if not any(root.packed for root in first.roots):
        return arguments
    seq_len, batch = first.sizes
    for place, leaf in enumerate(arguments.leaves):
        if not leaf.value.is_floating_point() and tuple(leaf.value.shape) == (batch,) and int(leaf.value.max()) == seq_len:
            rising = torch.linspace(1, seq_len, batch or 1).to(leaf.value.dtype)
            try:
                observe(module, arguments, {other.name: other.value for other in arguments.leaves} | {leaf.name: rising})
                order = "any"
            except ExampleError:
                order = "sorted"
            marked = replace(leaf, shape=(BATCH,), lengths=order)
            return replace(arguments, leaves=(*arguments.leaves[:place], marked, *arguments.leaves[place + 1 :]))
    raise ModuleRefusedError(
        f"{type(module).__name__}.forward packs its sequences by lengths that are no argument of it; take lengths as an int64 "
        "tensor [batch], its largest value the padded length"
    )


def _with_axes(module: nn.Module, arguments: Arguments, first: Observation, generator: torch.Generator) -> Arguments:
    """The arguments with their axes named: by the caller, by what PyTorch's own modules define, or by trying."""
    if all(leaf.shape is not None for leaf in arguments.leaves):
        return arguments
    best: list[Arguments] = []
    symbols = 0
    error: Exception | None = None
    for guess in _guesses(arguments, first):
        count = sum(isinstance(size, str) for leaf in guess.leaves for size in leaf.shape or ())
        if count < symbols:
            break
        try:
            if _holds(module, guess, generator):
                best.append(guess)
                symbols = count
        except ExampleError as raised:
            error = error or raised
    if not best and not first.roots:
        raise _stateless(module)
    seq_len = first.sizes[0]
    found = {size for leaf in (best[0].leaves if best else ()) for size in leaf.shape or ()}
    if len(best) != 1 or (SEQ_LEN not in found and seq_len > 1) or (BATCH not in found and (first.sizes[1] or 1) > 1):
        shapes = ", ".join(f"{leaf.name}{list(leaf.value.shape)}" for leaf in arguments.leaves)
        raise ExampleError(
            f"cannot tell which axes of {shapes} are seq_len and batch"
            + (f" ({error})" if error else "")
            + '; name them, as in example=["x:float32[seq_len,batch,10]"]'
        )
    return best[0]


def _guesses(arguments: Arguments, first: Observation) -> Iterator[Arguments]:
    """Every way to name the axes that agrees with the sizes seen, those that name most axes first."""
    seq_len, batch = first.sizes

    def shapes(leaf: Leaf) -> list[Shape]:
        if leaf.shape is not None:
            return [leaf.shape]
        options = [
            [
                size,
                *([SEQ_LEN] if size == seq_len or not first.roots else []),
                *([BATCH] if size == batch or not first.roots else []),
            ]
            for size in leaf.value.shape
        ]
        found = [tuple(shape) for shape in itertools.product(*options)]
        return [shape for shape in found if shape.count(SEQ_LEN) <= 1 and shape.count(BATCH) <= 1]

    ways = list(itertools.product(*map(shapes, arguments.leaves)))
    ways.sort(key=lambda way: -sum(isinstance(size, str) for shape in way for size in shape))
    for way in ways:
        leaves = tuple(replace(leaf, shape=shape) for leaf, shape in zip(arguments.leaves, way, strict=True))
        yield replace(arguments, leaves=leaves)


def _holds(module: nn.Module, guess: Arguments, generator: torch.Generator) -> bool:
    """Whether the recurrent calls see the sizes that the named axes have; without such calls, whether a state has none of time."""
    symbols = {size for leaf in guess.leaves for size in leaf.shape or ()}
    for seq_len, batch in SIZES:
        tensors = {leaf.name: leaf.sized(seq_len=seq_len, batch=batch, generator=generator) for leaf in guess.leaves}
        seen = observe(module, guess, tensors)
        if seen.roots:
            if (SEQ_LEN in symbols and seen.sizes[0] != seq_len) or (BATCH in symbols and seen.sizes[1] != batch):
                return False
        elif not any(leaf.value.is_floating_point() and SEQ_LEN not in (leaf.shape or ()) for leaf in guess.leaves[1:]):
            return False
    return True


def _symbolic(shapes: list[tuple[int, ...] | None], place: int) -> Shape | None:
    """The shape in symbols of a result seen at SIZES; None for what is not a tensor."""
    base, longer, wider = shapes
    if base is None or longer is None or wider is None:
        return None
    if not len(base) == len(longer) == len(wider):
        raise ModuleRefusedError(f"result {place} of forward has another number of axes at another seq_len or batch")
    axes: list[int | str] = []
    for size, at_longer, at_wider in zip(base, longer, wider, strict=True):
        seen = (size, at_longer, at_wider)
        if size == at_longer == at_wider:
            axes.append(size)
        elif seen == tuple(seq_len for seq_len, _ in SIZES):
            axes.append(SEQ_LEN)
        elif seen == tuple(batch for _, batch in SIZES):
            axes.append(BATCH)
        else:
            raise ModuleRefusedError(
                f"result {place} of forward has an axis of {size}, {at_longer}, {at_wider} at (seq_len, batch) = "
                f"{', '.join(map(str, SIZES))}: neither seq_len nor batch nor constant; return it unflattened and one for each step"
            )
    return tuple(axes)


def _given(
    module: nn.Module,
    arguments: Arguments,
    seen: Observation,
    at: Callable[..., Observation],
    shapes: list[Shape | None],
) -> tuple[tuple[str, int], ...]:
    """The arguments that are states: float, without a time axis, with a result of the same shape to carry them on."""
    if is_bare(module) and len(arguments.leaves) == 1:
        return ()
    free = list(range(len(shapes)))
    pairs: list[tuple[str, int]] = []
    for leaf in arguments.leaves:
        if leaf.value.is_floating_point() and leaf.shape is not None and SEQ_LEN not in leaf.shape:
            place = next((i for i in free if shapes[i] == leaf.shape and seen.results[i].dtype == leaf.value.dtype), None)
            if place is not None:
                pairs.append((leaf.name, place))
                free = free[free.index(place) + 1 :]
    if not pairs or not seen.roots:
        return tuple(pairs)
    zeroed = at(*SIZES[0], frozenset(name for name, _ in pairs))
    begins = [
        root.states is not None and any(map(torch.any, root.states)) and not any(map(torch.any, zero.states or ()))
        for root, zero in zip(seen.roots, zeroed.roots, strict=False)
    ]
    return tuple(pairs) if any(begins) else ()


def _chains(module: nn.Module, seen: list[Observation], given: bool) -> tuple[Chain, ...]:
    where = paths(module)
    called = [root.module for root in seen[0].roots]
    chains: list[Chain] = []
    for number, root in enumerate(seen[0].roots):
        starts = [one.roots[number].states for one in seen]
        zero = all(states is None or not any(map(torch.any, states)) for states in starts)
        begins = LIFTED if zero else GIVEN if given else COMPUTED
        if root.module not in where:
            raise ModuleRefusedError(f"forward calls a {type(root.module).__name__} that is no submodule of it; assign it to self")
        path = where[root.module]
        names = state_names(path, root.module, alone=len(called) == 1, call=called[:number].count(root.module))
        chains.append(Chain(path, begins, () if begins == GIVEN else names))
    return tuple(chains)


def _chain_shapes(module: nn.Module, seen: list[Observation], number: int) -> list[Shape]:
    shapes = []
    for states in zip(*(one.latest[number] for one in seen), strict=True):
        shape = _symbolic([tuple(state.shape) for state in states], number)
        assert shape is not None
        shapes.append(shape)
    return shapes


def _results(seen: Observation, carried: list[int]) -> list[int]:
    """The results that are outputs: tensors that are no state. Where forward returns states alone, the first is one."""
    states = [state for latest in seen.latest for state in latest]
    tensors = [i for i, result in enumerate(seen.results) if _is_tensor(result) and i not in carried]
    outputs = [i for i in tensors if not any(seen.results[i] is state for state in states)]
    return outputs or tensors[:1] or carried[:1]


def _output_names(seen: Observation, places: list[int]) -> list[str]:
    """The keys or fields under which forward returns them; else y, y_1, …"""
    keys = [seen.keys[place] for place in places]
    return keys if all(keys) and len(set(keys)) == len(keys) else ["y" if n == 0 else f"y_{n}" for n in range(len(keys))]


def _restless(module: nn.Module, seen: list[Observation]) -> str:
    counts = ", ".join(f"{len(one.roots)} at {sizes}" for one, sizes in zip(seen, SIZES, strict=True))
    where = paths(module)
    name = where.get(seen[0].roots[0].module, "?") if seen[0].roots else "?"
    return (
        f"submodule {name!r}: the number of recurrences that forward begins depends on (seq_len, batch): {counts}; a loop must "
        "pass on the state that the cell returned, unchanged, and begin once"
    )


def _state_input_names(leaves: list[str]) -> dict[str, str]:
    """h_0 for one given state, h_0 and c_0 for a pair, else forward's own names."""
    usual = {1: ["h_0"], 2: ["h_0", "c_0"]}.get(len(leaves), leaves)
    return dict(zip(leaves, usual, strict=True))


def _state(name: str, shape: Shape | None, dtype: torch.dtype) -> StateSpec:
    return StateSpec(name, next_name(name), _dtype(dtype), shape or ())


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
