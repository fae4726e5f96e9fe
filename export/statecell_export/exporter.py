"""The main path: probe, lift, write ONNX and TorchScript, prove, publish."""

import copy
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from statecell.spec import BATCH, SEQ_LEN, ModelSpec, SpecError
from torch import nn

from statecell_export.assumptions import assumptions
from statecell_export.errors import ExampleError, ExportError, ModuleRefusedError, VerificationError
from statecell_export.judging.branches import branch
from statecell_export.judging.judge import Judge
from statecell_export.judging.outside import outside
from statecell_export.judging.sizes import decisions
from statecell_export.proving.grid import Case
from statecell_export.proving.runners import Arrays, runner
from statecell_export.proving.streaming import min_batch, only_a_loop, why_not
from statecell_export.proving.verify import Verifier
from statecell_export.quiet import quiet
from statecell_export.reading import kept, written
from statecell_export.reading.eager import check_eager, check_finite, duplicate, uncompile, untie
from statecell_export.reading.example import Arguments, read
from statecell_export.reading.lift import Lifted
from statecell_export.reading.probe import Probe, probe
from statecell_export.reading.ranges import with_ranges
from statecell_export.reading.recurrent import is_bare
from statecell_export.report import Report, describe, versions
from statecell_export.repository import check_name, new_version
from statecell_export.writing.forms import FORMS, Form
from statecell_export.writing.recipes import ONNX, SCRIPT, Recipe, Source, recipes


def export(
    module: nn.Module,
    example: Any,
    *,
    name: str,
    out: str | Path = "models",
    version: int = 1,
    form: str = "float32",
    states: Sequence[str] = (),
    constants: Mapping[str, float] | None = None,
) -> Report:
    """Export `module` to out/name/version/ and prove it.

    >>> export(nn.LSTM(10, 20, 2), torch.zeros(5, 3, 10), name="lstm")

    module: nn.LSTM, GRU, RNN, a cell of these, or a module around them; exported in eval mode, and not changed.
    example: its input; a tuple or dict of inputs; or lines that name the axes, such as "x:float32[seq_len,batch,10]".
    states: which result carries on which of the states that forward takes, as in ["h:1", "c:2"] or ["h:h_next"]; needed only
        where nothing else tells. Or by a pattern: ["cached_*:new_cached_*"].
    constants: inputs that always have one value, as in {"episode_starts": 0}; they are no inputs of what is exported.
    form: "float32", which writes ONNX and TorchScript; "float16" or "int8" (8-bit weights), which write ONNX.

    Raises ModuleRefusedError, ExampleError, VerificationError; nothing is written then.
    """
    if form not in FORMS:
        raise ExportError(f"form is {form!r}, expected one of {', '.join(FORMS)}")
    check_name(name, version)
    with quiet(), torch.no_grad():
        try:
            made = prepared(module)
            arguments = read(made, example).fixed(constants or {})
            return _Export(name, Path(out), version, FORMS[form], tuple(states), time.perf_counter()).run(made, arguments)
        except SpecError as error:  # what was found is no layout that can be served
            raise ExampleError(f"{error}{_swapped(example)}") from error


def _swapped(example: Any) -> str:
    """A guess at what was meant, where the example's lines name both axes."""
    other = {SEQ_LEN: BATCH, BATCH: SEQ_LEN}
    lines = [example] if isinstance(example, str) else example
    if not isinstance(lines, list | tuple) or not all(isinstance(line, str) for line in lines):
        return ""
    swapped = [re.sub(rf"\b({SEQ_LEN}|{BATCH})\b", lambda axis: other[axis[0]], line) for line in lines]
    return f"; did you mean {' and '.join(swapped)}?" if swapped != list(lines) else ""


@dataclass(frozen=True)
class _Export:
    name: str
    out: Path
    version: int
    form: Form
    states: tuple[str, ...]
    began: float

    def run(self, original: nn.Module, arguments: Arguments) -> Report:
        source, verifier, judge = study(original, arguments, self.name, self.form, self.states)
        ways = recipes(source)
        failures: list[ExportError] = [] if ways else [only_a_loop(source.module, source.found, source.spec.reason)]
        if (where := branch(copy.deepcopy(source.module), source.found.arguments)).line:
            ways = [recipe for recipe in ways if recipe.name == SCRIPT]
            hint = (
                f"; where {where.arguments[0]} is always the same in service, say so: constants={{{where.arguments[0]!r}: 0}}"
            )
            failures.append(
                ModuleRefusedError(
                    f"{type(original).__name__}.forward decides by values ({where.line}), which a trace would do once for all; "
                    "write it by torch.where, or take the states as arguments and return them, so that it can be scripted"
                    + (hint if len(where.arguments) == 1 and len(source.found.leaves) > 1 else "")
                )
            )
        for recipe in ways:
            try:
                return self.publish(source, recipe, verifier, judge, original, failures)
            except (ModuleRefusedError, VerificationError) as error:
                failures.append(error)
        for other in failures[1:]:
            failures[0].add_note(f"and by another recipe: {other}")
        raise failures[0]

    def publish(
        self,
        source: Source,
        recipe: Recipe,
        verifier: Verifier,
        judge: Judge,
        original: nn.Module,
        failures: list[ExportError],
    ) -> Report:
        """Write the artifacts by `recipe`, prove them, and put them into the repository."""
        with new_version(self.out, self.name, self.version) as folder:
            files = recipe.write(source, folder)
            runners = {file: runner(folder / file, verifier.spec) for file in files}
            proof = verifier.prove(runners)
            judge.decide(runners)
            rounded = self.form.name != "float32"
            report = Report(
                spec=verifier.spec,
                path=self.out / self.name / str(self.version),
                recipe=recipe.name,
                form=self.form.name,
                proof=proof,
                accuracy=verifier.accuracy(runners, _exact(source.wrapped(copy.deepcopy(original).double()), source.found))
                if rounded
                else proof.worst,
                ranges=verifier.ranges(),
                artifacts={file: describe(folder / file) for file in files},
                versions=versions(),
                seconds=round(time.perf_counter() - self.began, 3),
                assumptions=assumptions(source.found, judge.seen),
                notes=() if ONNX in files else (f"no {ONNX}: {failures[0]}",),
            )
            (folder / "report.json").write_text(report.to_json())
        return report


def study(
    original: nn.Module, arguments: Arguments, name: str, form: Form, states: Sequence[str] = ()
) -> tuple[Source, Verifier, Judge]:
    """What there is to write of a prepared module in a form, what proves it, and who has the last word."""
    module = copy.deepcopy(original)
    form.weights(module)
    itself = copy.deepcopy(module)
    double = copy.deepcopy(module).double()  # before it runs: what it computes then cannot always be copied
    given = with_ranges(module, arguments)
    slots = kept.find(module, given)
    changed = written.find(copy.deepcopy(module), given)

    def made(module: nn.Module) -> nn.Module:
        return written.wrapped(kept.wrapped(module, slots), changed)

    with_kept = kept.with_states(kept.wrapped(module, slots), slots, given)
    module, double = made(module), made(double)
    found = probe(module, with_kept, name, [*states, *kept.lines(slots), *written.lines([*changed.states])])
    found = replace(found, evidence=found.evidence | kept.evidence(slots) | written.evidence([*changed.states]))
    taken = kept.without_states(found.arguments, given)
    carried = {
        name: None if name in changed.states else place for name, place in found.plan.given if name not in kept.names(slots)
    }
    lifted, exact = Lifted(module, found.plan), _exact(double, found)
    verifier = Verifier(lifted, exact, found.spec, found.leaves, form)
    judge = Judge(itself, taken, found.spec, carried, found.plan.results, steps=bool(slots))

    def run(feed: Arrays) -> Arrays:
        return verifier.run(lifted, feed)

    reason = why_not(module, found, verifier.difference)
    if wrong := judge.difference(run, stepped=False):
        raise ModuleRefusedError(f"{type(module).__name__}.forward is not what was made of it: {wrong}{kept.told(slots)}")
    if place := outside(copy.deepcopy(module), found.arguments):
        raise ModuleRefusedError(
            f"{type(module).__name__}.forward computes with values outside of PyTorch ({place}), where nothing can be "
            "followed: a trace would keep the example's for ever; compute them with torch's own functions"
        )
    if mixed := Judge(itself, taken, _alone(module, found.spec), carried, found.plan.results, steps=bool(slots)).mixed(run):
        one = [f"{t.name}:{t.dtype}[{','.join(str(1 if a == BATCH else a) for a in t.shape)}]" for t in found.spec.inputs]
        raise ModuleRefusedError(
            f"{type(module).__name__}.forward mixes the rows of a batch: {mixed}; where a session may have a batch of its own, "
            f"write 1 in place of batch in the example, as in {one!r}"
        )
    if not reason and not found.spec.has_time and not found.plan.given and not is_bare(module):
        reason = (
            "forward has no time axis and neither takes nor returns a state, so that each call begins anew; "
            "take the state as an argument and return it to step it"
        )
    if not reason:
        reason = judge.difference(run, stepped=True) or judge.foresees(run)
    spec = replace(found.spec, streamable=not reason, reason=reason, min_batch=min_batch(module, found.spec))
    source = Source(module, lifted, found, spec, form, verifier.tensors, made)
    served = form.spec(spec)
    sizes = decisions(copy.deepcopy(itself), taken)
    judge = Judge(itself, taken, served, carried, found.plan.results, steps=bool(slots), decisions=sizes)
    return source, Verifier(lifted, exact, served, found.leaves, form), judge


def _alone(module: nn.Module, spec: ModelSpec) -> ModelSpec:
    """The spec with the number of rows that a call must have."""
    return replace(spec, min_batch=min_batch(module, spec))


def prepared(module: nn.Module) -> nn.Module:
    """A copy in eval mode on the CPU. Raises ModuleRefusedError where it is not float32, or no module."""
    if not isinstance(module, nn.Module):
        what = f"the class {module.__name__}" if isinstance(module, type) else f"a {type(module).__name__}"
        advice = "; make the module and call module.load_state_dict(weights) first" if isinstance(module, Mapping) else ""
        advice = f"; make one of it: {module.__name__}(…)" if isinstance(module, type) else advice
        raise ModuleRefusedError(f"module is {what}, expected an nn.Module{advice}")
    check_eager(module)
    check_finite(module)
    try:
        module = uncompile(duplicate(module)).eval().cpu()
    except RuntimeError as error:  # it has run, and holds weights that it computed from others
        raise ModuleRefusedError(
            f"{type(module).__name__} cannot be copied: {str(error).split('.')[0]}; make weight_norm and the like permanent by "
            "torch.nn.utils.parametrize.remove_parametrizations, or export before it runs"
        ) from error
    untie(module)
    for path, parameter in module.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise ModuleRefusedError(
                f"parameter {path!r} is {parameter.dtype}, expected torch.float32; call module.float() first"
            )
    return module


def _exact(double: nn.Module, found: Probe) -> Lifted | None:
    """The module in float64, lifted; None where its forward only runs in float32."""
    exact = Lifted(double, found.plan)
    verifier = Verifier(exact, exact, found.spec, found.leaves, FORMS["float32"])
    try:
        for sizes in ((2, 3), (1, 1)):
            verifier.run(exact, verifier.feed(Case(*sizes, "zero")), double=True)
    except Exception:  # of whatever kind: a reference that cannot be had must not fail an export
        return None
    return exact
