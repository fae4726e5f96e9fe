"""TorchScript by trace; a loop over a cell as a scripted loop over the trace of one step."""

from pathlib import Path
from typing import Any

import torch
from statecell.spec import SPEC_KEY, ModelSpec
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from statecell_export.errors import ModuleRefusedError
from statecell_export.quiet import quiet
from statecell_export.reading.lift import Lifted, Named, Plan
from statecell_export.writing.shell import Shell

Script = torch.jit.ScriptModule


def trace(lifted: Lifted, tensors: tuple[Tensor, ...]) -> Script:
    """`lifted` traced. The grid of verification, not the trace, proves that no size was baked in."""
    with quiet(), torch.no_grad():
        traced: Script = torch.jit.trace(Shell(lifted), tensors, check_trace=False, strict=False)  # type: ignore[no-untyped-call]
    return traced


def script(module: nn.Module, plan: Plan, tensors: tuple[Tensor, ...]) -> Script:
    """`module` scripted, behind a forward of flat tensors. Only for a module whose states are arguments and results."""
    names = [f"tensor_{number}" for number in range(len(tensors))]
    named = dict(zip((*plan.tensors, *plan.state_names), zip(names, tensors, strict=True), strict=True))

    def arguments(place: int) -> tuple[Any, dict[str, Any]]:
        flat = [named[leaf.name][place] if isinstance(leaf, Named) else leaf for leaf in plan.arguments]
        args, kwargs = pytree.tree_unflatten(flat, plan.structure)
        return args, kwargs

    words, keywords = arguments(0)
    values, keyword_values = arguments(1)
    with torch.no_grad():
        reached, _ = pytree.tree_flatten_with_path(module(*values, **keyword_values))
    places = [pytree.keystr(reached[place][0]) for place in (*plan.results, *(place for _, place in plan.given))]
    called = ", ".join([*map(_expression, words), *(f"{key}={_expression(word)}" for key, word in keywords.items())])
    return _forward(
        nn.ModuleDict({"module": module}),
        names,
        [f"    result = self.module({called})", f"    return {', '.join(f'result{place}' for place in places)}"],
    )


def _expression(word: Any) -> str:
    """Nested tuples and lists of names as TorchScript has them."""
    if isinstance(word, tuple):
        return "(" + "".join(f"{_expression(part)}, " for part in word) + ")"
    if isinstance(word, list):
        return "[" + ", ".join(map(_expression, word)) + "]"
    return word if isinstance(word, str) else repr(word)


def loop(step: Script, spec: ModelSpec) -> Script:
    """A module that runs `step`, traced at seq_len 1, for each time step and joins the outputs."""
    inputs = [f"input_{number}" for number in range(len(spec.inputs))]
    states = [f"state_{number}" for number in range(len(spec.states))]
    outputs = [f"output_{number}" for number in range(len(spec.outputs))]
    slices = [
        name if t.time_axis is None else f"{name}.narrow({t.time_axis}, t, 1)"
        for name, t in zip(inputs, spec.inputs, strict=True)
    ]
    seq_len = next(
        f"{name}.size({t.time_axis})" for name, t in zip(inputs, spec.inputs, strict=True) if t.time_axis is not None
    )
    joined = [
        f"all_{name}[-1]" if t.time_axis is None else f"torch.cat(all_{name}, {t.time_axis})"
        for name, t in zip(outputs, spec.outputs, strict=True)
    ]
    return _forward(
        nn.ModuleDict({"step": step}),
        [*inputs, *states],
        [
            *(f"    all_{name}: List[Tensor] = []" for name in outputs),
            f"    for t in range({seq_len}):",
            f"        {', '.join((*outputs, *states))} = self.step({', '.join((*slices, *states))})",
            *(f"        all_{name}.append({name})" for name in outputs),
            f"    return {', '.join((*joined, *states))}",
        ],
    )


def _forward(children: nn.ModuleDict, parameters: list[str], lines: list[str]) -> Script:
    """A scripted module of `children` whose forward takes tensors and has this body. Raises ModuleRefusedError."""
    head = f"def forward(self, {', '.join(f'{name}: Tensor' for name in parameters)}):"
    # A class of its own: TorchScript keeps one type for all modules of a class that look alike, and a type has one forward.
    root = type("Root", (nn.Module,), {})()
    for name, child in children.items():
        root.add_module(name, child)
    with quiet():
        try:
            module: Script = torch.jit.script(root)
            module.define("\n".join([head, *lines, ""]))
        except OSError as error:  # typed into a shell or a notebook, of which there is no file
            raise ModuleRefusedError(
                f"{type(next(iter(children.values()))).__name__} has to be compiled by TorchScript, which reads its source, "
                "and that is in no file; write the class into a .py file and import it from there"
            ) from error
        except Exception as error:  # of whatever kind: it reads all that a class is made of
            reason = str(error).strip().splitlines()[0]
            raise ModuleRefusedError(
                f"TorchScript cannot compile {type(next(iter(children.values()))).__name__}: {reason}"
            ) from error
    return module.eval()


def save(script: Script, path: Path, spec: ModelSpec) -> None:
    """Write `script` with its spec inside."""
    with quiet():
        torch.jit.save(script, str(path), _extra_files={SPEC_KEY: spec.to_json()})


def load(path: Path) -> tuple[Script, ModelSpec]:
    """The reverse of save."""
    files = {SPEC_KEY: ""}
    with quiet():
        script: Script = torch.jit.load(str(path), map_location="cpu", _extra_files=files)  # type: ignore[no-untyped-call]
    return script, ModelSpec.from_json(files[SPEC_KEY])
