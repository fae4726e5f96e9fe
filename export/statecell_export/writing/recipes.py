"""The ways to write a module's artifacts, best first. Verification, not the recipe, decides which one is good."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import onnx
from onnx import helper
from statecell.spec import SPEC_KEY, ModelSpec
from torch import Tensor, nn

from statecell_export.reading.lift import Lifted
from statecell_export.reading.probe import Probe
from statecell_export.reading.recurrent import Recurrent, is_bare
from statecell_export.writing import torchscript
from statecell_export.writing.build import direct
from statecell_export.writing.forms import Form
from statecell_export.writing.loop import loop
from statecell_export.writing.trace import traced

ONNX = "model.onnx"
TORCHSCRIPT = "model.pt"
SCRIPT = "script"


@dataclass(frozen=True)
class Source:
    """What the recipes work from. tensors: typical inputs and states of a seq_len."""

    module: nn.Module
    lifted: Lifted
    found: Probe
    spec: ModelSpec
    form: Form
    tensors: Callable[[int], tuple[Tensor, ...]]
    wrapped: Callable[[nn.Module], nn.Module]  # what `module` is of a copy of the user's own


Onnx = Callable[[Source], onnx.ModelProto]
Script = Callable[[Source], torchscript.Script]


@dataclass(frozen=True)
class Recipe:
    """How to make each artifact; None where this recipe makes none."""

    name: str
    onnx: Onnx | None
    torchscript: Script | None

    def write(self, source: Source, folder: Path) -> list[str]:
        """Write the artifacts; their file names. Raises ModuleRefusedError."""
        files = []
        if self.onnx is not None:
            model = source.form.finish(self.onnx(source))
            helper.set_model_props(model, {SPEC_KEY: source.form.spec(source.spec).to_json()})
            onnx.save(model, folder / ONNX)
            files.append(ONNX)
        if self.torchscript is not None and source.form.torchscript:
            torchscript.save(self.torchscript(source), folder / TORCHSCRIPT, source.spec)
            files.append(TORCHSCRIPT)
        return files


def recipes(source: Source) -> list[Recipe]:
    """What may work, best first: both artifacts before TorchScript alone."""
    spec, plan = source.spec, source.found.plan
    both = [Recipe("direct", _direct, _traced_script)] if is_bare(source.module) else []
    if not both and not source.found.loops:
        both.append(Recipe("trace", _traced, _traced_script))
    if not is_bare(source.module) and spec.streamable and spec.has_time:
        both.append(Recipe("loop", _loop, _loop_script))
    alone = [Recipe(recipe.name, None, recipe.torchscript) for recipe in both]
    if not any(chain.names for chain in plan.chains) and not plan.constants:
        alone.append(Recipe(SCRIPT, None, _script))
    return [*both, *(alone if source.form.torchscript else [])]


def _direct(source: Source) -> onnx.ModelProto:
    return direct(cast(Recurrent, source.module), source.spec)


def _traced(source: Source) -> onnx.ModelProto:
    return traced(source.module, source.found.plan, source.spec, source.tensors(5))


def _loop(source: Source) -> onnx.ModelProto:
    step = traced(source.module, source.found.plan, source.spec, source.tensors(1))
    return loop(step, source.spec)


def _traced_script(source: Source) -> torchscript.Script:
    return torchscript.trace(source.lifted, source.tensors(5))


def _loop_script(source: Source) -> torchscript.Script:
    return torchscript.loop(torchscript.trace(source.lifted, source.tensors(1)), source.spec)


def _script(source: Source) -> torchscript.Script:
    return torchscript.script(source.module, source.found.plan, source.tensors(5))
