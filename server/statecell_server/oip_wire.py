"""Requests and answers of the Open Inference Protocol, to the engine's objects and back."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from statecell.oip import inference_pb2 as pb
from statecell.tensor import Array

from statecell_server.errors import DtypeMismatch, InvalidRequest, StatecellError
from statecell_server.runner import Runner
from statecell_server.turn import Turn

Value = bool | int | float | str

DATATYPES = {
    "float32": "FP32",
    "float64": "FP64",
    "float16": "FP16",
    "int64": "INT64",
    "int32": "INT32",
    "int16": "INT16",
    "int8": "INT8",
    "uint8": "UINT8",
    "bool": "BOOL",
}
"""The protocol's names of the spec's dtypes."""
_DTYPES = {datatype: np.dtype(name).newbyteorder("<") for name, datatype in DATATYPES.items()}
_DATATYPES = {dtype: datatype for datatype, dtype in _DTYPES.items()}
_CONTENTS = {
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "INT64": "int64_contents",
    "INT32": "int_contents",
    "INT16": "int_contents",
    "INT8": "int_contents",
    "UINT8": "uint_contents",
    "BOOL": "bool_contents",
}
_OF_SEQUENCES = ("sequence_start", "sequence_end", "sequence_replace", "durable", "step_index")


def read_inputs(request: pb.ModelInferRequest) -> dict[str, Array]:
    """By name; views on the message's bytes where they came raw. Raises InvalidRequest, DtypeMismatch."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequest(
            f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs, expected one for each",
            field="raw_input_contents",
        )
    arrays: dict[str, Array] = {}
    for i, tensor in enumerate(request.inputs):
        if tensor.name in arrays:
            raise InvalidRequest(f"input {tensor.name!r} came twice", field=tensor.name)
        arrays[tensor.name] = _read_input(tensor, raw[i] if raw else None)
    return arrays


def _read_input(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> Array:
    name, dtype, shape = tensor.name, _DTYPES.get(tensor.datatype), tuple(tensor.shape)
    if dtype is None:
        raise DtypeMismatch(f"input {name!r} is {tensor.datatype!r}, expected one of {', '.join(_DTYPES)}", field=name)
    if tensor.parameters and "shared_memory_region" in tensor.parameters:
        raise InvalidRequest(f"input {name!r} is in shared memory, which this server has not; send its bytes", field=name)
    if raw is not None and tensor.HasField("contents"):
        raise InvalidRequest(f"input {name!r} came with contents and with raw_input_contents, expected one of them", field=name)
    if shape and min(shape) < 0:
        raise InvalidRequest(f"input {name!r} has shape {list(shape)}, expected sizes", field=name)
    try:
        flat = np.frombuffer(raw, dtype) if raw is not None else _read_contents(tensor, dtype)
        return flat.reshape(shape)
    except ValueError:
        came = f"{len(raw)} bytes" if raw is not None else "other contents"
        raise InvalidRequest(f"input {name!r} says {tensor.datatype}{list(shape)} but has {came}", field=name) from None


def _read_contents(tensor: pb.ModelInferRequest.InferInputTensor, dtype: np.dtype[Any]) -> Array:
    """Raises ValueError where the elements do not fit, InvalidRequest where they are in another field."""
    wanted = _CONTENTS.get(tensor.datatype)
    filled = [field.name for field, _ in tensor.contents.ListFields()]
    if filled and filled != [wanted]:
        expected = wanted or "raw_input_contents"
        raise InvalidRequest(f"input {tensor.name!r} has {', '.join(filled)}, expected {expected}", field=tensor.name)
    values = np.array(getattr(tensor.contents, wanted) if wanted else [])
    array = values.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(array, values):
        raise ValueError("an element does not fit into the datatype")
    return array


def read_parameters(request: pb.ModelInferRequest) -> dict[str, Value]:
    """By name. Raises InvalidRequest."""
    values: dict[str, Value] = {}
    for name, parameter in request.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidRequest(f"parameter {name!r} has no value", field=name)
        values[name] = getattr(parameter, kind)
    return values


def read_sequence(request: pb.ModelInferRequest, parameters: dict[str, Value]) -> Turn | None:
    """The request as a step of its sequence; None: it is stateless. Raises InvalidRequest, DtypeMismatch."""
    sequence_id = parameters.get("sequence_id", 0)
    if isinstance(sequence_id, bool | float):
        raise InvalidRequest(f"sequence_id is {sequence_id!r}, expected an integer or a string", field="sequence_id")
    if not sequence_id:
        for name in _OF_SEQUENCES:
            if parameters.get(name):
                raise InvalidRequest(f"{name} came without a sequence_id", field=name)
        return None
    start = _flag(parameters, "sequence_start")
    step_index = parameters.get("step_index")
    if step_index is not None and (not isinstance(step_index, int) or isinstance(step_index, bool) or step_index < 0):
        raise InvalidRequest(f"step_index is {step_index!r}, expected 0 or more", field="step_index")
    return Turn(
        request.model_name,
        request.model_version,
        str(sequence_id),
        read_inputs(request),
        request_id=request.id,
        start=start,
        end=_flag(parameters, "sequence_end"),
        replace=_flag(parameters, "sequence_replace"),
        durable=_flag(parameters, "durable"),
        step_index=step_index,
        outputs=read_outputs(request),
    )


def _flag(parameters: dict[str, Value], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} is {value!r}, expected true or false", field=name)
    return value


def read_outputs(request: pb.ModelInferRequest) -> tuple[str, ...]:
    """The names of the outputs asked for; none: all. Raises InvalidRequest."""
    outputs = request.outputs
    if not outputs:
        return ()
    for tensor in outputs:
        for name in ("shared_memory_region", "classification") if tensor.parameters else ():
            if name in tensor.parameters:
                raise InvalidRequest(
                    f"output {tensor.name!r} is wanted with {name}, which this server has not", field=tensor.name
                )
    return tuple([tensor.name for tensor in outputs])


def write_answer(
    request: pb.ModelInferRequest, runner: Runner, outputs: Iterable[tuple[str, Array]], step_index: int | None = None
) -> pb.ModelInferResponse:
    """`step_index`: where the sequence stands now."""
    answer = pb.ModelInferResponse(model_name=runner.name, model_version=runner.version, id=request.id)
    for name, array in outputs:
        answer.outputs.add(name=name, datatype=_DATATYPES[array.dtype], shape=array.shape)
        answer.raw_output_contents.append(array.tobytes())
    if step_index is not None:
        answer.parameters["step_index"].int64_param = step_index
    return answer


def write_streamed(answer: pb.ModelInferResponse) -> pb.ModelStreamInferResponse:
    """Every request has one answer, and this is it."""
    answer.parameters["triton_final_response"].bool_param = True
    return pb.ModelStreamInferResponse(infer_response=answer)


def write_streamed_error(request: pb.ModelInferRequest, error: StatecellError) -> pb.ModelStreamInferResponse:
    """ "REASON: message", as the protocol has no more than a text; the answer around it tells whose error it is."""
    answer = pb.ModelInferResponse(model_name=request.model_name, model_version=request.model_version, id=request.id)
    for name, value in {"reason": error.reason, **error.metadata}.items():
        answer.parameters[name].string_param = value
    response = write_streamed(answer)
    response.error_message = f"{error.reason}: {error}"
    return response
