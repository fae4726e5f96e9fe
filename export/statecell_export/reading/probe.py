"""What a module takes, gives and remembers, found by running it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from statecell.spec import BATCH, SEQ_LEN, ModelSpec, Shape, SpecError, StateSpec, TensorSpec
from torch import Tensor, nn

from statecell_export.errors import ExampleError, ModuleRefusedError
from statecell_export.reading.axes import SIZES, NoSymbolError, symbolic
from statecell_export.reading.example import Arguments, Leaf
from statecell_export.reading.lift import COMPUTED, GIVEN, LIFTED, OWN, Chain, Constant, Plan, next_name, paths, state_names
from statecell_export.reading.naming import stateless, with_axes, with_lengths
from statecell_export.reading.observe import Observation, dtype_name, observe
from statecell_export.reading.pairing import by_name, pair, told
from statecell_export.reading.recurrent import Cell, is_bare, kind


@dataclass(frozen=True)
class Probe:
    """A module's signature, and how its tensors map to forward's."""

    spec: ModelSpec
    plan: Plan
    leaves: tuple[Leaf, ...]  # one for each of the spec's inputs
    arguments: Arguments  # with all axes named
    loops: bool  # forward calls a cell once for each time step
    packed: bool
    evidence: dict[str, str]  # of each state that forward takes: what tells its next value
    steady: frozenset[str] = frozenset()  # outputs that are the same for all steps of a call


def probe(module: nn.Module, arguments: Arguments, name: str, said: Sequence[str] = ()) -> Probe:
    """Find axes, states and outputs of `module` (in eval mode). `said`: what the caller says of its states, as "h:1".

    Raises ModuleRefusedError, ExampleError.
    """
    generator = torch.Generator().manual_seed(0)
    first = observe(module, arguments, {leaf.name: leaf.value for leaf in arguments.leaves}, follow=True)
    _same_again(module, arguments, first)
    _passed_on(module, first)
    arguments = with_lengths(module, arguments, first)
    arguments = with_axes(module, arguments, first, generator)

    def at(seq_len: int, batch: int) -> Observation:
        tensors = {leaf.name: leaf.sized(seq_len=seq_len, batch=batch, generator=generator) for leaf in arguments.leaves}
        return observe(module, arguments, tensors, follow=True)

    seen = [at(*sizes) for sizes in SIZES]
    if len({len(one.roots) for one in seen}) > 1:
        raise ModuleRefusedError(_changed(paths(module)[seen[0].roots[0].module]))
    shapes = [_result_shape(seen, place) for place in range(len(seen[0].results))]
    _same_axes(at, shapes, timed=any(SEQ_LEN in (leaf.shape or ()) for leaf in arguments.leaves))
    given, evidence = _given(module, said, arguments, seen[0], shapes)
    timed = any(SEQ_LEN in (leaf.shape or ()) for leaf in arguments.leaves)
    results = _results(seen[0], [place for _, place in given])
    taken = {leaf.name for leaf in arguments.leaves} | set(_output_names(seen[0], results))
    chains = _chains(module, seen, {name for name, _ in given}, taken, timed=timed)
    if not given and all(chain.begins == OWN for chain in chains):
        raise stateless(module, arguments, first)
    state_leaves = {leaf_name for leaf_name, _ in given}
    renamed = _state_input_names([leaf_name for leaf_name, _ in given], seen[0], taken)
    inputs = tuple(leaf for leaf in arguments.leaves if leaf.name not in state_leaves and not leaf.constant)
    plan = Plan(
        arguments=arguments.flat,
        structure=arguments.structure,
        tensors=tuple(leaf.name for leaf in inputs),
        given=given,
        chains=chains,
        results=tuple(results),
        first=_free("started", taken),
        constants=_constants(arguments),
    )
    by_name = {leaf.name: leaf for leaf in arguments.leaves}
    states = [_state(renamed[leaf], by_name[leaf].shape, by_name[leaf].value.dtype, by_name[leaf].initial) for leaf, _ in given]
    for number, chain in enumerate(chains):
        if chain.names:
            shapes_of = zip(chain.names, _chain_shapes(seen, chain, number), strict=True)
            states.extend(_state(name, shape, torch.float32) for name, shape in shapes_of)
    if plan.started:
        states.append(_state(plan.first, (BATCH, 1), torch.float32))
    try:
        spec = ModelSpec(
            name=name,
            inputs=tuple(TensorSpec(leaf.name, dtype_name(leaf.value.dtype), leaf.shape or ()) for leaf in inputs),
            outputs=tuple(
                TensorSpec(output, dtype_name(seen[0].results[place].dtype), shapes[place] or ())
                for output, place in zip(_output_names(seen[0], results), results, strict=True)
            ),
            states=tuple(states),
        )
    except SpecError as error:
        raise ModuleRefusedError(f"{type(module).__name__}: {error}") from None
    roots = list(zip(*(one.roots for one in seen), strict=True))
    loops = any(isinstance(root[0].module, Cell) and len({r.seq_len for r in root}) > 1 for root in roots)
    timed_leaves = {leaf.name for leaf in arguments.leaves if SEQ_LEN in (leaf.shape or ())} | state_leaves
    steady = frozenset(
        output.name
        for output, place in zip(spec.outputs, results, strict=True)
        if output.time_axis is None and not any(one.sources[place] & timed_leaves for one in seen)
    )
    return Probe(spec, plan, inputs, arguments, loops, any(root.packed for root in seen[0].roots), evidence, steady)


def _constants(arguments: Arguments) -> tuple[Constant, ...]:
    """Those among the arguments, and whose axes are as long as theirs."""
    axes = {
        size: (leaf.name, axis)
        for leaf in arguments.leaves
        if not leaf.constant
        for axis, size in enumerate(leaf.shape or ())
        if isinstance(size, str)
    }
    constants = []
    for leaf in arguments.leaves:
        if leaf.constant and leaf.range is not None:
            if missing := [size for size in leaf.shape or () if isinstance(size, str) and size not in axes]:
                raise ExampleError(f"constant {leaf.name!r} has an axis {missing[0]} that no input has")
            sizes = tuple(axes[size] if isinstance(size, str) else size for size in leaf.shape or ())
            constants.append(Constant(leaf.name, leaf.range[0], leaf.value.dtype, sizes))
    return tuple(constants)


def _same_again(module: nn.Module, arguments: Arguments, first: Observation) -> None:
    again = observe(module, arguments, {leaf.name: leaf.value for leaf in arguments.leaves})
    for before, after in zip(first.results, again.results, strict=True):
        if _is_tensor(before) and not torch.isfinite(before).all():
            raise ExampleError(
                f"{type(module).__name__}.forward gives numbers that are not finite on the example, by which nothing can be "
                'proven; say what its values are like, as in "x:float32[seq_len,batch,10]0..1"'
            )
        if _is_tensor(before) and not torch.equal(before, after):
            raise ModuleRefusedError(
                f"{type(module).__name__}.forward gives another result when called again with the same input: it draws random "
                "numbers (an initial state from torch.randn, dropout without training=self.training) or keeps state in self; "
                "start from zeros, and take a kept state as an argument and return it"
            )


def _passed_on(module: nn.Module, first: Observation) -> None:
    """A cell that is called again must be given the state that it returned, so that its calls are one recurrence."""
    cells = [root.module for root in first.roots if isinstance(root.module, Cell)]
    for number, root in enumerate(first.roots):
        earlier = root.module in [before.module for before in first.roots[:number]]
        if earlier and root.module in cells and root.sources:
            raise ModuleRefusedError(_changed(paths(module).get(root.module, "?")))


def _changed(path: str) -> str:
    return (
        f"submodule {path!r}: a loop calls it with another state than it returned; pass its state on unchanged, and apply what "
        "changes it to the cell's input or output instead"
    )


def _result_shape(seen: list[Observation], place: int) -> Shape | None:
    """The shape in symbols of one of forward's results; None for what is not a tensor."""
    results = [one.results[place] for one in seen]
    if not all(map(_is_tensor, results)):
        return None
    try:
        return symbolic([tuple(result.shape) for result in results])
    except NoSymbolError as error:
        raise ModuleRefusedError(f"result {place} of forward {error}; return it unflattened, one for each step") from None


def _same_axes(at: Callable[[int, int], Observation], shapes: list[Shape | None], *, timed: bool) -> None:
    """Raises ModuleRefusedError where a result has fewer axes, or other ones, where seq_len or batch is 1."""
    seq_len, batch = SIZES[0]
    for axis, sizes in ((SEQ_LEN, (1, batch)), (BATCH, (seq_len, 1))):
        if axis == SEQ_LEN and not timed:
            continue
        for place, (result, shape) in enumerate(zip(at(*sizes).results, shapes, strict=True)):
            if shape is not None and result.dim() != len(shape):
                raise ModuleRefusedError(
                    f"result {place} of forward has the axes {list(result.shape)} where {axis} is 1, and {list(shape)} "
                    "elsewhere: squeeze() takes away every axis of size 1; name the one that is meant, as in squeeze(-1)"
                )


def _given(
    module: nn.Module,
    said: Sequence[str],
    arguments: Arguments,
    seen: Observation,
    shapes: list[Shape | None],
) -> tuple[tuple[tuple[str, int], ...], dict[str, str]]:
    """The arguments that are states, and the results that carry them on: as the caller has `said`, the others found, and how.

    A state has no time axis, and comes back in its own shape. The first argument is one only where it is handed to
    a recurrent module as its state.
    """
    fitting: dict[str, list[int]] = {}
    whole: dict[str, list[int]] = {}
    where = {leaf.name: leaf.path for leaf in arguments.leaves}
    first, handed = arguments.leaves[0].name, {id(state) for root in seen.roots for state in root.states or ()}
    for leaf in arguments.leaves:
        if leaf.constant or (leaf.name == first and id(seen.tensors[first]) not in handed):
            continue
        if leaf.shape is not None and SEQ_LEN not in leaf.shape:
            fits = [i for i, shape in enumerate(shapes) if shape == leaf.shape and seen.results[i].dtype == leaf.value.dtype]
            if leaf.value.is_floating_point() and fits:
                fitting[leaf.name] = fits
            elif made := [i for i in fits if seen.results[i] is not seen.tensors[leaf.name]]:  # not handed back as it is
                whole[leaf.name] = made
    lines = told(said, [leaf.name for leaf in arguments.leaves], seen)
    named = by_name(module, fitting | whole, seen, where)
    fitting |= {name: fits for name, fits in whole.items() if name in named or not said}
    fitting = {name: fits for name, fits in fitting.items() if name not in lines}
    places = {name: place for name, place in lines.items() if place is not None}
    evidence = {name: f"carried on by result {place} of forward, as the caller says" for name, place in places.items()}
    for name, (place, how) in pair(module, fitting, seen, where).items():
        places[name], evidence[name] = place, f"carried on by result {place} of forward: {how}"
    pairs = [(leaf.name, places[leaf.name]) for leaf in arguments.leaves if leaf.name in places]
    if said:
        return tuple(pairs), evidence
    feeds = {name for name, _ in pairs}
    if not seen.roots or any(root.sources & feeds for root in seen.roots):
        return tuple(pairs), evidence
    # No recurrent module goes on from them: a cell of the user's own may, or they are no states and only have such a shape.
    named = by_name(module, fitting, seen, where)
    return tuple((name, place) for name, place in pairs if name in named), evidence


def _chains(module: nn.Module, seen: list[Observation], given: set[str], taken: set[str], *, timed: bool) -> tuple[Chain, ...]:
    """How each recurrence begins, and the names of its states.

    One that is as long at any seq_len does not run over time, but over the bins of a spectrum or the characters of a word. Nor
    does one within a step whose caller carries on other states: it begins anew in each.
    """
    where = paths(module)
    called = [root.module for root in seen[0].roots]
    begins = []
    for number, root in enumerate(seen[0].roots):
        if root.module not in where:
            raise ModuleRefusedError(
                f"forward calls a {type(root.module).__name__} that is no submodule of it; assign it to self"
            )
        sources = frozenset().union(*(one.roots[number].sources for one in seen))
        over_time = len({one.roots[number].seq_len for one in seen}) > 1 if timed else not given
        if sources & given:
            begins.append(GIVEN)
        elif not over_time and not root.packed and not is_bare(module) and (given or not sources):
            begins.append(OWN)
        else:
            begins.append(COMPUTED if sources else LIFTED)
    alone = sum(how in (LIFTED, COMPUTED) for how in begins) == 1
    chains = []
    for number, (owner, how) in enumerate(zip(called, begins, strict=True)):
        names: tuple[str, ...] = ()
        if how in (LIFTED, COMPUTED):
            wanted = state_names(where[owner], owner, alone=alone, call=called[:number].count(owner))
            names = tuple(_free(name, taken) for name in wanted)
            taken |= {*names, *map(next_name, names)}
        chains.append(Chain(where[owner], how, names))
    return tuple(chains)


def _chain_shapes(seen: list[Observation], chain: Chain, number: int) -> list[Shape]:
    shapes = [[tuple(state.shape) for state in states] for states in zip(*(one.latest[number] for one in seen), strict=True)]
    try:
        return [symbolic(sizes) for sizes in shapes]
    except NoSymbolError as error:
        raise ModuleRefusedError(
            f"submodule {chain.path!r}: its state {error}; give it an input of [seq_len, batch, …], or where it has "
            "several rows for each of the batch, write 1 in place of batch in the example's line"
        ) from None


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


def _free(name: str, taken: set[str]) -> str:
    """A name for a state that nothing of forward's has, nor its next value."""
    while name in taken or next_name(name) in taken:
        name = f"state_{name}"
    return name


def _state_input_names(leaves: list[str], seen: Observation, taken: set[str]) -> dict[str, str]:
    """h_0 for one given state, h_0 and c_0 for those of one LSTM, else forward's own names."""
    others = taken - set(leaves)
    one_lstm = len(seen.roots) == 1 and kind(seen.roots[0].module) == "LSTM"
    usual = ["h_0"] if len(leaves) == 1 else ["h_0", "c_0"] if len(leaves) == 2 and one_lstm else leaves
    return dict(zip(leaves, [_free(name, others) for name in usual], strict=True))


def _state(name: str, shape: Shape | None, dtype: torch.dtype, initial: float = 0.0) -> StateSpec:
    return StateSpec(name, next_name(name), dtype_name(dtype), shape or (), initial)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
