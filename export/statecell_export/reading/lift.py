"""State made explicit: a module whose recurrent state is an input and an output, even where its forward hides it.

While a forward runs, the calls of PyTorch's recurrent modules inside it are intercepted. A call that is given no state, or
zeros, is given the wrapper's state input instead, and the state that it returns becomes the wrapper's state output.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from statecell_export.reading.recurrent import CLASSES, Recurrent, letters
from statecell_export.reading.results import plain

States = tuple[Tensor, ...]
Run = Callable[[Recurrent, Any, States | None], Any]
Intercept = Callable[[Run, Recurrent, Any, States | None], Any]

_lock = threading.RLock()


_aside = threading.local()


@contextmanager
def aside() -> Iterator[None]:
    """What this thread calls in the block is neither intercepted, nor traced, nor followed."""
    tracing = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    _aside.on = True
    try:
        with _disable_current_modes(), torch.no_grad():
            yield
    finally:
        _aside.on = False
        torch._C._set_tracing_state(tracing)  # type: ignore[attr-defined]


@contextmanager
def intercepted(intercept: Intercept) -> Iterator[None]:
    """Every recurrent module called in the block, by this thread, is run by `intercept(run, module, input, states)`."""
    thread = threading.get_ident()

    def patched(original: Callable[..., Any]) -> Callable[..., Any]:
        def run(module: Recurrent, input: Any, states: States | None) -> Any:
            hx = states if states is None or len(states) > 1 else states[0]
            return original(module, input, hx)

        def forward(self: Recurrent, input: Any, hx: Any = None) -> Any:
            if threading.get_ident() != thread or getattr(_aside, "on", False):
                return original(self, input, hx)
            return intercept(run, self, input, (hx,) if isinstance(hx, Tensor) else hx)

        return forward

    with _lock:
        originals = {kind: kind.forward for kind in CLASSES}
        try:
            for kind, original in originals.items():
                kind.forward = patched(original)
            yield
        finally:
            for kind, original in originals.items():
                kind.forward = original


def states_of(module: Recurrent, result: Any) -> States:
    """The states in what a recurrent module returned."""
    after = result if isinstance(module, nn.RNNCellBase) else result[1]
    return after if isinstance(after, tuple) else (after,)


@dataclass
class Chains:
    """Which calls in one forward carry on the state of an earlier call of the same module, as a loop over a cell does."""

    roots: list[tuple[Recurrent, States]] = field(default_factory=list)  # a chain's module and its latest states

    def find(self, module: Recurrent, states: States | None) -> int | None:
        """The number of the chain that a call continues, None where it begins one."""
        if states is None:
            return None
        for number in reversed(range(len(self.roots))):
            owner, latest = self.roots[number]
            if owner is module and all(map(_same, states, latest)):
                return number
        return None


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether it is that very tensor, or a view of all of it. Not by values, which a clamp or a mask may have left alone."""
    return a is b or (a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride())


LIFTED, COMPUTED, GIVEN, OWN = "lifted", "computed", "given", "own"
"""How a chain begins: with zeros or none; with a state that forward computes or learned; with one of its arguments; or anew in
each call, where it runs over another axis than time and there is nothing of it to carry on."""


@dataclass(frozen=True)
class Chain:
    """A chain of calls of the recurrent submodule at `path`, and where its states stand among the wrapper's."""

    path: str
    begins: str
    names: tuple[str, ...]  # of its state inputs, such as h_0 and c_0; none where begins is GIVEN or OWN


@dataclass(frozen=True)
class Constant:
    """An argument that always has one value. sizes: of its axes; of those that vary, the tensor and axis that have the size."""

    name: str
    value: float
    dtype: torch.dtype
    sizes: tuple[int | tuple[str, int], ...]

    def tensor(self, named: dict[str, Tensor]) -> Tensor:
        """As large as a call's other tensors ask for."""
        sizes = [size if isinstance(size, int) else named[size[0]].size(size[1]) for size in self.sizes]
        return torch.full(sizes, self.value).to(self.dtype)


@dataclass(frozen=True)
class Plan:
    """How the flat tensors of a lifted module map to the arguments and results of forward."""

    arguments: tuple[Any, ...]  # forward's flat arguments; a tensor's place is held by its name
    structure: Any  # of (args, kwargs)
    tensors: tuple[str, ...]  # the names of forward's tensor arguments that are inputs
    given: tuple[tuple[str, int], ...]  # arguments that are states, and the places of their next values in forward's results
    chains: tuple[Chain, ...]
    results: tuple[int, ...]  # the places of the outputs in forward's flat results
    first: str = "started"  # the name of the state that tells a first call from later ones
    constants: tuple["Constant", ...] = ()

    @property
    def started(self) -> bool:
        """Whether a first call must be told from later ones: forward begins with a state of its own making."""
        return any(chain.begins == COMPUTED for chain in self.chains)

    @property
    def state_names(self) -> tuple[str, ...]:
        names = [name for name, _ in self.given] + [name for chain in self.chains for name in chain.names]
        return (*names, self.first) if self.started else tuple(names)


class Lifted(nn.Module):
    """`module` with its states among its inputs and outputs: forward(*inputs, *states) -> (*outputs, *next states)."""

    def __init__(self, module: nn.Module, plan: Plan, run: Intercept | None = None) -> None:
        super().__init__()
        self.module = module
        self.plan = plan
        self._run: Intercept = run or (lambda run, module, input, states: run(module, input, states))
        self.eval()  # PyTorch's exporter puts a module back into the mode that the outermost one had

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        plan, chains = self.plan, Chains()
        named = dict(zip((*plan.tensors, *plan.state_names), tensors, strict=True))

        def intercept(run: Run, module: Recurrent, input: Any, states: States | None) -> Any:
            number = chains.find(module, states)
            if number is None and len(chains.roots) < len(plan.chains):
                chain = plan.chains[len(chains.roots)]
                states = self._first(chain, named, plan.first, module, input, states)
                number = len(chains.roots)
                chains.roots.append((module, ()))
            result = self._run(run, module, input, states)
            if number is not None:
                chains.roots[number] = (module, states_of(module, result))
            return result

        with intercepted(intercept):
            results = self._call(named)
        after = [results[place] for _, place in plan.given]
        for chain, (_, latest) in zip(plan.chains, chains.roots, strict=True):
            after.extend(latest if chain.names else ())
        if plan.started:
            after.append(torch.ones_like(named[plan.first]))
        return (*(results[place] for place in plan.results), *after)

    def plain(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the module's own forward, no state lifted out of it."""
        results = self._call(dict(zip((*self.plan.tensors, *self.plan.state_names), tensors, strict=True)))
        return tuple(results[place] for place in self.plan.results)

    def _call(self, named: dict[str, Tensor]) -> list[Any]:
        named = named | {constant.name: constant.tensor(named) for constant in self.plan.constants}
        flat = [named[leaf.name] if isinstance(leaf, Named) else leaf for leaf in self.plan.arguments]
        args, kwargs = pytree.tree_unflatten(flat, self.plan.structure)
        return pytree.tree_leaves(plain(self.module(*args, **kwargs)))

    @staticmethod
    def _first(
        chain: Chain, named: dict[str, Tensor], first: str, module: Recurrent, input: Any, states: States | None
    ) -> States | None:
        if not chain.names:
            return states if states is not None else _zeros(module, input)
        lifted = tuple(named[name] for name in chain.names)
        if chain.begins == LIFTED:
            return lifted
        assert states is not None
        return tuple(torch.where(named[first] > 0, new, own) for new, own in zip(lifted, states, strict=True))


@dataclass(frozen=True)
class Named:
    """Holds a tensor's place among forward's flat arguments."""

    name: str


def _zeros(module: Recurrent, input: Any) -> States | None:
    """What a recurrent module begins with that is given no state, of sizes that a trace can follow."""
    if not isinstance(input, Tensor):
        return None
    if isinstance(module, nn.RNNCellBase):
        shape = [*([input.size(0)] if input.dim() == 2 else []), module.hidden_size]
        return tuple(input.new_zeros(shape) for _ in letters(module))
    batch = [input.size(0 if module.batch_first else 1)] if input.dim() == 3 else []
    count = module.num_layers * (2 if module.bidirectional else 1)
    sizes = [module.proj_size or module.hidden_size, module.hidden_size]
    return tuple(input.new_zeros([count, *batch, size]) for _, size in zip(letters(module), sizes, strict=False))


def paths(module: nn.Module) -> dict[Recurrent, str]:
    """The recurrent submodules and where they are."""
    return {child: path for path, child in module.named_modules() if isinstance(child, CLASSES)}


def state_names(path: str, module: Recurrent, *, alone: bool, call: int) -> tuple[str, ...]:
    """h_0 and c_0; below the submodule's path where there are several."""
    below = "" if alone else (path.replace(".", "_") + "_" if path else "") + (f"{call}_" if call else "")
    return tuple(f"{below}{letter}_0" for letter in letters(module))


def next_name(name: str) -> str:
    """h_0 -> h_n; state -> state_n."""
    return (name[:-2] if name.endswith("_0") else name) + "_n"
