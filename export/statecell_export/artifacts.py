"""Artifacts as they lie in the repository: read again, and verified again, alone or against a module."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from statecell.spec import SPEC_KEY, ModelSpec, SpecError, TensorSpec
from torch import nn

from statecell_export.errors import ExportError, VerificationError
from statecell_export.exporter import prepared, study
from statecell_export.proving.grid import Case, Ledger, cases, chunked, chunks, long_cases
from statecell_export.proving.runners import Arrays, runner
from statecell_export.quiet import quiet
from statecell_export.reading.example import read
from statecell_export.report import Proof
from statecell_export.writing.forms import FORMS
from statecell_export.writing.recipes import ONNX, TORCHSCRIPT
from statecell_export.writing.torchscript import load as load_script


@dataclass(frozen=True)
class Version:
    """A version's folder. ranges: the whole numbers that each input may hold. form: its number format."""

    folder: Path
    files: tuple[str, ...]
    spec: ModelSpec
    form: str
    ranges: dict[str, tuple[int, int]]


def open_version(path: Path) -> Version:
    """models/name/1, or the newest version of models/name. Raises ExportError, VerificationError."""
    numbers = [int(child.name) for child in path.iterdir() if child.name.isdigit()] if path.is_dir() else []
    folder = path / str(max(numbers)) if numbers else path
    files = tuple(file for file in (ONNX, TORCHSCRIPT) if (folder / file).is_file())
    if not files:
        raise ExportError(f"{path} holds neither {ONNX} nor {TORCHSCRIPT}; give a model's folder, such as models/lstm")
    specs = {file: read_spec(folder / file) for file in files}
    if len(set(specs.values())) > 1:
        raise VerificationError(f"{folder}: {' and '.join(files)} carry different specs; export the model again")
    written = json.loads((folder / "report.json").read_text()) if (folder / "report.json").is_file() else {}
    ranges = {name: (low, high) for name, (low, high) in written.get("ranges", {}).items()}
    return Version(folder, files, specs[files[0]], written.get("form", "float32"), ranges)


def read_spec(path: Path) -> ModelSpec:
    """The spec inside a .onnx or .pt file. Raises ExportError."""
    try:
        if path.suffix == ".pt":
            return load_script(path)[1]
        properties = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    except (DecodeError, RuntimeError) as error:
        raise ExportError(f"{path} cannot be read: {str(error).strip().splitlines()[0]}") from None
    if SPEC_KEY not in properties:
        raise ExportError(f"{path} has no spec inside; give it one by statecell-export adopt {path}")
    try:
        return ModelSpec.from_json(properties[SPEC_KEY])
    except SpecError as error:
        raise ExportError(f"{path}: {error}") from None


def verify(
    path: str | Path,
    module: nn.Module | None = None,
    example: Any = None,
    *,
    states: Sequence[str] = (),
    constants: Mapping[str, float] | None = None,
) -> Proof:
    """Prove a version again: its artifacts in chunks against whole and against each other; against `module` where one is given.

    >>> verify("models/lstm")

    example, states, constants: as they were given to `export`.

    Raises VerificationError, ExportError.
    """
    version = open_version(Path(path))
    with quiet(), torch.no_grad():
        return _alone(version) if module is None else _against(version, module, example, states, constants or {})


def _against(version: Version, module: nn.Module, example: Any, states: Sequence[str], constants: Mapping[str, float]) -> Proof:
    module = prepared(module)
    arguments = read(module, list(version.spec.inputs) if example is None else example).fixed(constants)
    generator = torch.Generator().manual_seed(0)
    leaves = tuple(
        replace(leaf, value=torch.randint(low, high + 1, leaf.value.shape, generator=generator).to(leaf.value.dtype))
        if (limits := version.ranges.get(leaf.name)) and (low := limits[0]) <= (high := limits[1])
        else leaf
        for leaf in arguments.leaves
    )
    _, verifier, judge = study(module, replace(arguments, leaves=leaves), version.spec.name, FORMS[version.form], states)
    if verifier.spec != version.spec:
        raise VerificationError(f"{version.folder} has the spec {version.spec.to_json()}, the module {verifier.spec.to_json()}")
    runners = {file: runner(version.folder / file, version.spec) for file in version.files}
    proof = verifier.prove(runners)
    judge.decide(runners)
    return proof


def _alone(version: Version) -> Proof:
    """Chunked against whole in each artifact, and each against the first."""
    spec = version.spec
    runners = {file: runner(version.folder / file, spec) for file in version.files}
    first = runners[version.files[0]]
    ledger, generator = Ledger(floor=_floor(version)), np.random.default_rng(0)
    for case in cases(spec):
        feed = _feed(version, case, generator)
        want = first(feed)
        for file, run in runners.items():
            ledger.check(file, f"whole, {case}", run(feed), want, want)
    for case in long_cases(spec) if spec.streamable else ():
        feed = _feed(version, case, generator)
        parts = chunks(spec, feed)
        want = first(feed) if spec.has_time else chunked(spec, first, parts)
        for file, run in runners.items():
            ledger.check(file, f"in chunks, {case}", chunked(spec, run, parts), want, want)
    return Proof(
        spec.streamable, spec.reason, f"{version.files[0]} itself", ledger.cases, ledger.worst, ledger.tolerance, ledger.own
    )


def _floor(version: Version) -> float:
    """Rounding of two float32 computations of the widest product, or of two steps of a coarser form."""
    if version.form == "float16":
        return 2.0**-8
    if version.files[0] == TORCHSCRIPT:
        return 2.0**-19
    widest = max((max(t.dims) for t in onnx.load(version.folder / ONNX).graph.initializer if len(t.dims) > 1), default=1)
    return float((2 * widest) ** 0.5 * 2.0**-24)


def _feed(version: Version, case: Case, generator: np.random.Generator) -> Arrays:
    spec = version.spec
    feed = {t.name: _values(version, t, case, generator) for t in spec.inputs}
    for state in spec.states:
        fresh = state.fresh(case.batch)
        random = generator.standard_normal(fresh.shape).astype(fresh.dtype)
        feed[state.input] = random if case.state == "random" and state.input != "started" else fresh
    return feed


def _values(version: Version, tensor: TensorSpec, case: Case, generator: np.random.Generator) -> Any:
    shape = tensor.sized(seq_len=case.seq_len, batch=case.batch)
    if np.dtype(tensor.dtype).kind == "f":
        return generator.standard_normal(shape).astype(tensor.dtype)
    if tensor.name not in version.ranges:  # the lengths of packed sequences
        return np.full(shape, case.seq_len, tensor.dtype)
    low, high = version.ranges[tensor.name]
    return generator.integers(low, high + 1, shape).astype(tensor.dtype)
