"""Answers on HTTP: a ModelInferResponse as JSON, or as JSON with binary data behind it, and errors."""

import json
import math
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
from google.rpc import code_pb2
from starlette.responses import JSONResponse, Response
from statecell.oip import inference_pb2 as pb
from statecell.tensor import Array

from statecell_server.errors import StatecellError
from statecell_server.protocols.oip.wire import DTYPES
from statecell_server.protocols.rest.request import InferBody
from statecell_server.protocols.status import CODES, told
from statecell_server.transport.http1.turns import Turns

AT_ONCE = 8192
"""Elements that are written as JSON in one turn of the event loop."""
STATUS: dict[int, int] = {
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.UNAUTHENTICATED: 401,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.NOT_FOUND: 404,
    code_pb2.ALREADY_EXISTS: 409,
    code_pb2.ABORTED: 409,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.INTERNAL: 500,
    code_pb2.UNAVAILABLE: 503,
}
"""HTTP's status for each code, as google/rpc/code.proto has them."""
LENGTH = "Inference-Header-Content-Length"


def failure(error: StatecellError) -> Response:
    """{"error": message, "reason": reason}, and what the error names."""
    told[error.reason] += 1
    headers = {} if error.retry_seconds is None else {"Retry-After": str(math.ceil(error.retry_seconds))}
    named = {name: text for name, text in error.metadata.items() if name not in ("error", "reason")}
    body = {"error": str(error), "reason": error.reason, **named}
    return JSONResponse(body, STATUS[CODES[type(error)]], headers)


async def write_answer(answer: pb.ModelInferResponse, wanted: InferBody, turns: Turns) -> Response:
    """The outputs in the form in which they are wanted."""
    head: dict[str, Any] = {"model_name": answer.model_name, "model_version": answer.model_version}
    if answer.id:
        head["id"] = answer.id
    if answer.parameters:
        head["parameters"] = _parameters(answer.parameters)
    outputs, binary = [], []
    for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if wanted.binary_of.get(tensor.name, wanted.binary):
            outputs.append(json.dumps(entry | {"parameters": {"binary_data_size": len(raw)}}))
            binary.append(raw)
        else:
            elements = np.frombuffer(raw, DTYPES[tensor.datatype])
            data = [piece async for piece in _pieces(elements, turns)]
            outputs.append(f'{json.dumps(entry)[:-1]}, "data": [{", ".join(data)}]}}')
    body = f'{json.dumps(head)[:-1]}, "outputs": [{", ".join(outputs)}]}}'.encode()
    if not binary:
        return Response(body, media_type="application/json")
    return Response(b"".join([body, *binary]), media_type="application/octet-stream", headers={LENGTH: str(len(body))})


async def _pieces(elements: Array, turns: Turns) -> AsyncIterator[str]:
    """JSON between the brackets, piece by piece. NaN and infinity are written so, though JSON has no such numbers."""
    for start in range(0, len(elements), AT_ONCE):
        some = elements[start : start + AT_ONCE]
        if len(elements) <= AT_ONCE:
            yield json.dumps(some.tolist())[1:-1]
        else:
            async with turns.one():
                piece = json.dumps(some.tolist())[1:-1]
            yield piece


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    return {name: getattr(value, str(value.WhichOneof("parameter_choice"))) for name, value in parameters.items()}
