"""TorchScript by trace; a loop over a cell as a scripted loop over the trace of one step."""

from pathlib import Path

import torch
from statecell.spec import SPEC_KEY, ModelSpec
from torch import Tensor, nn

from statecell_export.lift import Lifted
from statecell_export.quiet import quiet

Script = torch.jit.ScriptModule


def trace(lifted: Lifted, tensors: tuple[Tensor, ...]) -> Script:
    """`lifted` traced. The grid of verification, not the trace, proves that no size was baked in."""
    with quiet(), torch.no_grad():
        traced: Script = torch.jit.trace(lifted, tensors, check_trace=False, strict=False)
    return traced


def loop(step: Script, spec: ModelSpec) -> Script:
    """A module that runs `step`, traced at seq_len 1, for each time step and joins the outputs."""
    inputs = [t.name.replace(".", "_") for t in spec.inputs]
    states = [s.input.replace(".", "_") for s in spec.states]
    timed = [n for n, t in enumerate(spec.inputs) if t.time_axis is not None]
    first = spec.inputs[timed[0]]
    outputs = [f"out_{n}" for n in range(len(spec.outputs))]
    slices = [
        f"{name}.narrow({t.time_axis}, t, 1)" if t.time_axis is not None else name
        for name, t in zip(inputs, spec.inputs, strict=True)
    ]
    joins = [
        f"torch.cat(all_{name}, {t.time_axis})" if t.time_axis is not None else f"all_{name}[-1]"
        for name, t in zip(outputs, spec.outputs, strict=True)
    ]
    lines = [
        f"def forward(self, {', '.join(f'{name}: Tensor' for name in (*inputs, *states))}):",
        *(f"    all_{name}: List[Tensor] = []" for name in outputs),
        f"    for t in range({inputs[timed[0]]}.size({first.time_axis})):",
        f"        {', '.join((*outputs, *states))} = self.step({', '.join((*slices, *states))})",
        *(f"        all_{name}.append({name})" for name in outputs),
        f"    return {', '.join((*joins, *states))}",
    ]
    with quiet():
        module: Script = torch.jit.script(nn.ModuleDict({"step": step}))
        module.define("\n".join(lines) + "\n")
    return module.eval()


def save(script: Script, path: Path, spec: ModelSpec) -> None:
    """Write `script` with its spec inside."""
    with quiet():
        torch.jit.save(script, str(path), _extra_files={SPEC_KEY: spec.to_json()})


def load(path: Path) -> tuple[Script, ModelSpec]:
    """The reverse of save."""
    files = {SPEC_KEY: ""}
    with quiet():
        script: Script = torch.jit.load(str(path), map_location="cpu", _extra_files=files)
    return script, ModelSpec.from_json(files[SPEC_KEY])
