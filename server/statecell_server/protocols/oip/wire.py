"""Requests and answers of the Open Inference Protocol, to the engine's objects and back."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from statecell.oip import inference_pb2 as pb
from statecell.tensor import MOST_AXES, Array

from statecell_server.access.caller import ANYBODY, Caller
from statecell_server.errors import DtypeMismatch, InvalidRequest, StatecellError
from statecell_server.protocols.oip.request import Answer, Key, SequenceRequest
from statecell_server.protocols.status import told

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
DTYPES = {datatype: np.dtype(name).newbyteorder("<") for name, datatype in DATATYPES.items()}
_DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}
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
LONGEST_ID = 256
"""Characters of a sequence's id, and of a request's: both are kept."""
_INTEGER = ("int64_param", "uint64_param")
FLAG = (("bool_param",), "true or false")
PARAMETERS: dict[str, tuple[tuple[str, ...], str]] = {
    "sequence_id": ((*_INTEGER, "string_param"), "an integer or a string"),
    "sequence_start": FLAG,
    "sequence_end": FLAG,
    "sequence_replace": FLAG,
    "durable": FLAG,
    "step_index": (_INTEGER, "0 or more"),
}
"""Those of sequences: their types, and what a message calls them."""

CONTROLS = {
    "sequence_id": "send its number as the request's parameter sequence_id",
    "sequence_control_input": "send its 1 as the request's parameter sequence_start, and its 2 as sequence_end, both booleans",
}
"""What OpenVINO Model Server has sequences by, as inputs of types that no model here has; and where that belongs."""


def read_inputs(request: pb.ModelInferRequest) -> dict[str, Array]:
    """By name; views on the message's bytes where they came raw. Raises InvalidRequest, DtypeMismatch."""
    inputs, raw = request.inputs, request.raw_input_contents
    if raw and len(raw) != len(inputs):
        raise InvalidRequest(
            f"raw_input_contents has {len(raw)} entries for {len(inputs)} inputs, expected one for each",
            field="raw_input_contents",
        )
    arrays: dict[str, Array] = {}
    for i, tensor in enumerate(inputs):
        name = tensor.name
        if name in arrays:
            raise InvalidRequest(f"input {name!r} came twice", field=name)
        arrays[name] = _read_input(tensor, name, raw[i] if raw else None)
    return arrays


def _read_input(tensor: pb.ModelInferRequest.InferInputTensor, name: str, raw: bytes | None) -> Array:
    if len(tensor.shape) > MOST_AXES:
        raise InvalidRequest(f"input {name!r} has {len(tensor.shape)} axes, the most is {MOST_AXES}", field=name)
    dtype, shape = DTYPES.get(tensor.datatype), tensor.shape[:]
    if dtype is None and name in CONTROLS:
        why = f"is a control tensor, which this server does not take: {CONTROLS[name]}"
        raise InvalidRequest(f"input {name!r} {why}", field=name)
    if dtype is None:
        raise DtypeMismatch(f"input {name!r} is {tensor.datatype!r}, expected one of {', '.join(DTYPES)}", field=name)
    if "shared_memory_region" in tensor.parameters:
        raise InvalidRequest(f"input {name!r} is in shared memory, which this server has not; send its bytes", field=name)
    if raw is not None and tensor.HasField("contents"):
        raise InvalidRequest(f"input {name!r} came with contents and with raw_input_contents, expected one of them", field=name)
    try:
        data = _read_contents(tensor, dtype) if raw is None else raw
        if math.prod(shape) * dtype.itemsize == len(data):
            return np.ndarray(shape, dtype, data)
    except ValueError:  # elements that do not fit, or sizes that NumPy does not take, such as negative ones
        pass
    came = "other contents" if raw is None else f"{len(raw)} bytes"
    raise InvalidRequest(f"input {name!r} says {tensor.datatype}{shape} but has {came}", field=name)


def _read_contents(tensor: pb.ModelInferRequest.InferInputTensor, dtype: np.dtype[Any]) -> bytes:
    """As if they had come raw. Raises ValueError where they do not fit, InvalidRequest where they are in another field."""
    wanted = _CONTENTS.get(tensor.datatype)
    filled = [field.name for field, _ in tensor.contents.ListFields()]
    if filled and filled != [wanted]:
        expected = wanted or "raw_input_contents"
        raise InvalidRequest(f"input {tensor.name!r} has {', '.join(filled)}, expected {expected}", field=tensor.name)
    values = np.array(getattr(tensor.contents, wanted) if wanted else [])
    array = values.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(array, values):
        raise ValueError("an element does not fit into the datatype")
    return array.tobytes()


def read_request(request: pb.ModelInferRequest, caller: Caller = ANYBODY) -> SequenceRequest | None:
    """The request as a step of its sequence; None: it is stateless. Raises InvalidRequest, DtypeMismatch."""
    given = _read_parameters(request)
    sequence_id, step_index = given.get("sequence_id"), given.get("step_index")
    if not sequence_id:
        for name, value in given.items():
            if value:
                raise InvalidRequest(f"{name} came without a sequence_id", field=name)
        return None
    for name, text in (("sequence_id", str(sequence_id)), ("id", request.id)):
        if len(text) > LONGEST_ID:
            raise InvalidRequest(f"{name} has {len(text)} characters, the most is {LONGEST_ID}", field=name)
    if step_index is not None and step_index < 0:
        raise InvalidRequest(f"step_index is {step_index}, expected 0 or more", field="step_index")
    return SequenceRequest(
        request.model_name,
        request.model_version,
        str(sequence_id),
        read_inputs(request),
        request.id,
        read_outputs(request),
        step_index,
        start=given.get("sequence_start", False),
        end=given.get("sequence_end", False),
        replace=given.get("sequence_replace", False),
        durable=given.get("durable", False),
        owner=caller.tag,
    )


def sequence_of(request: pb.ModelInferRequest, caller: Caller = ANYBODY) -> Key:
    """Whose step the request is, if it is one, and whatever else is wrong with it."""
    if "sequence_id" not in request.parameters:
        return request.model_name, ""
    parameter = request.parameters["sequence_id"]
    kind = parameter.WhichOneof("parameter_choice")
    return request.model_name, "" if kind is None else f"{getattr(parameter, kind)}{caller.tag}"


def _read_parameters(request: pb.ModelInferRequest) -> dict[str, Any]:
    """Those of sequences that are there; others are ignored. Raises InvalidRequest."""
    values: dict[str, Any] = {}
    parameters = request.parameters
    for name in parameters:
        if name not in PARAMETERS:
            continue
        parameter = parameters[name]
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidRequest(f"parameter {name!r} has no value", field=name)
        values[name] = getattr(parameter, kind)
        kinds, expected = PARAMETERS[name]
        if kind not in kinds:
            raise InvalidRequest(f"{name} is {values[name]!r}, expected {expected}", field=name)
    return values


def read_outputs(request: pb.ModelInferRequest) -> tuple[str, ...]:
    """The names of the outputs asked for; none: all. Raises InvalidRequest."""
    outputs = request.outputs
    if not outputs:
        return ()
    if len({tensor.name for tensor in outputs}) < len(outputs):
        raise InvalidRequest("an output is asked for twice", field="outputs")
    for tensor in outputs:
        for name in ("shared_memory_region", "classification") if tensor.parameters else ():
            if name in tensor.parameters:
                raise InvalidRequest(
                    f"output {tensor.name!r} is wanted with {name}, which this server has not", field=tensor.name
                )
    return tuple([tensor.name for tensor in outputs])


def write_answer(request: pb.ModelInferRequest, answer: Answer, wanted: Iterable[str], into: pb.ModelInferResponse) -> None:
    """`wanted`: the names of its outputs; none: all."""
    into.model_name, into.model_version, into.id = answer.runner.name, answer.runner.version, request.id
    for name in wanted or answer.outputs:
        array, output = answer.outputs[name], into.outputs.add()
        output.name, output.datatype = name, _DATATYPES[array.dtype]
        output.shape.extend(array.shape)
        into.raw_output_contents.append(array.tobytes())
    if answer.step_index is not None:
        into.parameters["step_index"].int64_param = answer.step_index


def write_streamed_error(request: pb.ModelInferRequest, error: StatecellError, into: pb.ModelStreamInferResponse) -> None:
    """ "REASON: message", as the protocol has no more than a text; the answer in it tells whose error it is."""
    told[error.reason] += 1
    into.error_message = f"{error.reason}: {error}"
    answer = into.infer_response
    answer.model_name, answer.model_version, answer.id = request.model_name, request.model_version, request.id
    for name, value in {"reason": error.reason, **error.metadata}.items():
        answer.parameters[name].string_param = value
