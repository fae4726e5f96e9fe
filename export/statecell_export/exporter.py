"""The main path: probe, lift, write ONNX and TorchScript, prove, publish."""

import copy
import hashlib
import time
from dataclasses import replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, cast

import onnx
import torch
from statecell.spec import ModelSpec
from torch import nn

from statecell_export import torchscript, trace
from statecell_export.errors import ModuleRefusedError
from statecell_export.example import read
from statecell_export.lift import Lifted
from statecell_export.probe import Probe, probe
from statecell_export.quiet import quiet
from statecell_export.recurrent import Recurrent, is_bare
from statecell_export.report import Report
from statecell_export.repository import new_version
from statecell_export.streaming import why_not
from statecell_export.verify import Case, Verifier, onnx_runner, torchscript_runner

ONNX = "model.onnx"
TORCHSCRIPT = "model.pt"
TRACE_SIZES = (5, 3)


def export(module: nn.Module, example: Any, *, name: str, out: str | Path = "models", version: int = 1) -> Report:
    """Export `module` to out/name/version/ and prove it.

    >>> export(nn.LSTM(10, 20, 2), torch.zeros(5, 3, 10), name="lstm")

    module: nn.LSTM, GRU, RNN, a cell of these, or a module around them; exported in eval mode, float32, and not changed.
    example: its input; a tuple or dict of inputs; or lines that name the axes, such as "x:float32[seq_len,batch,10]".

    Raises ModuleRefusedError, ExampleError, VerificationError; nothing is written then.
    """
    began = time.perf_counter()
    with quiet():
        return _export(_prepared(module), example, name, out, version, began)


def _export(module: nn.Module, example: Any, name: str, out: str | Path, version: int, began: float) -> Report:
    found = probe(module, read(module, example), name)
    lifted = Lifted(module, found.plan)
    exact = _exact(lifted, found)
    spec = _streamable(module, Verifier(lifted, found.spec, found.leaves, exact))
    with new_version(out, name, version) as folder:
        recipe = _write(module, lifted, replace(found, spec=spec), folder)
        runners = {ONNX: onnx_runner(folder / ONNX), TORCHSCRIPT: torchscript_runner(folder / TORCHSCRIPT)}
        report = Report(
            spec=spec,
            path=Path(out) / name / str(version),
            recipe=recipe,
            form="float32",
            proof=Verifier(lifted, spec, found.leaves, exact).prove(runners),
            artifacts={file: _describe(folder / file) for file in runners},
            versions={package: installed(package) for package in ("torch", "onnx", "onnxruntime")},
            seconds=round(time.perf_counter() - began, 3),
        )
        (folder / "report.json").write_text(report.to_json())
    return report


def _prepared(module: nn.Module) -> nn.Module:
    """A copy in eval mode on the CPU. Raises ModuleRefusedError where it is not float32."""
    module = copy.deepcopy(module).eval().cpu()
    for path, parameter in module.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise ModuleRefusedError(f"parameter {path!r} is {parameter.dtype}, expected torch.float32; call module.float() first")
    return module


def _exact(lifted: Lifted, found: Probe) -> Lifted | None:
    """The lifted module in float64, None where its forward only runs in float32."""
    exact = Lifted(copy.deepcopy(lifted.module).double(), found.plan)
    verifier = Verifier(exact, found.spec, found.leaves, exact)
    try:
        verifier.run(exact, verifier.feed(Case(*TRACE_SIZES, "zero")))
    except RuntimeError:
        return None
    return exact


def _streamable(module: nn.Module, verifier: Verifier) -> ModelSpec:
    """The spec with what is found out about streaming, and with how many rows ONNX Runtime's RNN node needs."""
    spec = verifier.spec
    reason = why_not(module, spec, verifier.difference())
    fussy = any(isinstance(m, nn.RNN | nn.RNNCell) for m in module.modules()) and spec.has_batch
    return replace(spec, streamable=not reason, reason=reason, min_batch=2 if fussy else 1)


def _write(module: nn.Module, lifted: Lifted, found: Probe, folder: Path) -> str:
    """Write both artifacts; the name of the recipe."""
    spec = found.spec
    verifier = Verifier(lifted, spec, found.leaves, None)
    seq_len, batch = TRACE_SIZES
    feed = verifier.feed(Case(1 if found.loops else seq_len, batch, "random"))
    tensors = tuple(torch.from_numpy(array) for array in feed.values())
    script = torchscript.trace(lifted, tensors)
    if found.loops:
        recipe, script = "loop", torchscript.loop(script, spec)
        model = trace.loop(trace.traced(module, found.plan, spec, tensors), spec)
    elif is_bare(module):
        recipe, model = "direct", trace.direct(cast(Recurrent, module), spec)
    else:
        recipe, model = "trace", trace.traced(module, found.plan, spec, tensors)
    torchscript.save(script, folder / TORCHSCRIPT, spec)
    onnx.save(model, folder / ONNX)
    return recipe


def _describe(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
