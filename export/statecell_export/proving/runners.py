"""Artifacts, run as a server will run them: inputs and states by name in, outputs and next states by name out."""

from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as failures
from statecell.spec import ModelSpec, SpecError, TensorSpec

from statecell_export.errors import VerificationError
from statecell_export.reading.recurrent import Array
from statecell_export.writing.graph import next_state
from statecell_export.writing.torchscript import load

Arrays = dict[str, Array]
Runner = Callable[[Arrays], Arrays]

ORT_ERRORS = (
    failures.Fail,
    failures.InvalidArgument,
    failures.InvalidGraph,
    failures.NotImplemented,
    failures.RuntimeException,
)


def runner(path: Path, spec: ModelSpec) -> Runner:
    """Runs model.onnx in ONNX Runtime, model.pt in TorchScript. Raises VerificationError where it does not load or differs."""
    return onnx_runner(path, spec) if path.suffix == ".onnx" else torchscript_runner(path, spec)


def ort_session(model: str | bytes) -> onnxruntime.InferenceSession:
    """On one thread, on the CPU, silent: what fails is told by its exception."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_runner(path: Path, spec: ModelSpec) -> Runner:
    """The signature that the file declares must be the spec's, axis names too."""
    try:
        session = ort_session(str(path))
    except ORT_ERRORS as error:
        raise VerificationError(f"{path.name} does not load: {error}") from error
    names = [output.name for output in session.get_outputs()]
    declared = {value.name: tuple(value.shape) for value in (*session.get_inputs(), *session.get_outputs())}
    for tensor in signature(spec):
        if declared.get(tensor.name) != tensor.shape:
            raise VerificationError(
                f"{path.name} declares {tensor.name!r} as {declared.get(tensor.name)}, the spec has {tensor.shape}"
            )

    def run(feed: Arrays) -> Arrays:
        try:
            return dict(zip(names, session.run(names, feed), strict=True))
        except ORT_ERRORS as error:
            raise VerificationError(f"{path.name} fails on {shapes(feed)}: {error}") from error

    return run


def torchscript_runner(path: Path, spec: ModelSpec) -> Runner:
    """The arguments are the inputs, then the states; the results are the outputs, then the next states."""
    try:
        script, carried = load(path)
    except (RuntimeError, SpecError) as error:
        raise VerificationError(f"{path.name} does not load: {error}") from error
    if carried != spec:
        raise VerificationError(f"{path.name} carries another spec: {carried.to_json()}")
    arguments, results = signature_in(spec), signature_out(spec)

    def run(feed: Arrays) -> Arrays:
        try:
            with torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                values = script(*(torch.from_numpy(feed[tensor.name]) for tensor in arguments))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise VerificationError(f"{path.name} fails on {shapes(feed)}: {reason}") from error
        values = values if isinstance(values, tuple) else (values,)
        return {tensor.name: value.numpy() for tensor, value in zip(results, values, strict=True)}

    return run


def signature_in(spec: ModelSpec) -> list[TensorSpec]:
    """The inputs, then the states."""
    return [*spec.inputs, *(state.tensor for state in spec.states)]


def signature_out(spec: ModelSpec) -> list[TensorSpec]:
    """The outputs, then the next states."""
    return [*spec.outputs, *map(next_state, spec.states)]


def signature(spec: ModelSpec) -> list[TensorSpec]:
    return [*signature_in(spec), *signature_out(spec)]


def shapes(feed: Arrays) -> str:
    """The feed in words."""
    return ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in feed.items())
