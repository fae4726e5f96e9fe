"""A body of /infer as the ModelInferRequest that says the same."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from statecell.oip import inference_pb2 as pb

from statecell_server.errors import InvalidRequest
from statecell_server.protocols.oip.wire import DTYPES

JSON_BYTES = 1 << 20
"""Of JSON in a request at most: while it is parsed, nothing else runs. Larger tensors come as binary data."""
_KINDS: dict[type, str] = {dict: "an object", list: "an array", str: "a string", int: "an integer", bool: "true or false"}


class JsonTooLarge(Exception):
    """The client's fault: tensors of this size are to come as binary data."""


class InferBody(NamedTuple):
    """The request, and how its outputs are wanted: `binary` for those that are not in `binary_of`."""

    message: pb.ModelInferRequest
    binary: bool
    binary_of: Mapping[str, bool]


def read_json(body: bytes) -> dict[str, Any]:
    """An object; of nothing, an empty one. Raises InvalidRequest, JsonTooLarge."""
    if len(body) > JSON_BYTES:
        raise JsonTooLarge(
            f"the JSON has {len(body)} bytes, the most is {JSON_BYTES}: send tensors as binary data, "
            "with Inference-Header-Content-Length"
        )
    if not body:
        return {}
    try:
        found = json.loads(body)
    except RecursionError as error:
        raise InvalidRequest("the body is no JSON that is read here: it is nested too deep") from error
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"the body is no JSON: {error}") from error
    except ValueError as error:  # bytes that are no text, or Python's limit to the digits of a number
        what = "no UTF-8" if isinstance(error, UnicodeDecodeError) else "a number of too many digits"
        raise InvalidRequest(f"the body is no JSON that is read here: it has {what}") from error
    if not isinstance(found, dict):
        raise InvalidRequest("the body is no JSON object")
    return found


def read_infer(body: bytes, header: str | None, model: str, version: str) -> InferBody:
    """`header`: Inference-Header-Content-Length, if it came. Raises InvalidRequest, DtypeMismatch, JsonTooLarge."""
    size = len(body)
    if header is not None:
        if not (header.isascii() and header.isdigit() and len(header) < 20 and int(header) <= size):
            raise InvalidRequest(f"Inference-Header-Content-Length is {header[:40]!r} of a body of {size} bytes")
        size = int(header)
    request = read_json(body[:size])
    message = pb.ModelInferRequest(model_name=model, model_version=version, id=_text(_get(request, "id", str, "")))
    given = dict(_get(request, "parameters", dict, {}))
    binary = _flag(given, "binary_data_output")
    _write_parameters(given, message.parameters)
    binary_of: dict[str, bool] = {}
    for entry in _entries(request, "outputs"):
        name, given = _text(_get(entry, "name", str)), dict(_get(entry, "parameters", dict, {}))
        if "binary_data" in given:
            binary_of[name] = _flag(given, "binary_data")
        _write_parameters(given, message.outputs.add(name=name).parameters)
    at = size
    for entry in _entries(request, "inputs"):
        at = _read_input(entry, body, at, message)
    if at != len(body):
        raise InvalidRequest(f"{len(body) - at} bytes follow the inputs' binary data", field="inputs")
    return InferBody(message, binary, binary_of)


def _read_input(entry: dict[str, Any], body: bytes, at: int, message: pb.ModelInferRequest) -> int:
    """Where the next binary data begins."""
    name, datatype = _text(_get(entry, "name", str)), _text(_get(entry, "datatype", str))
    shape, given = _get(entry, "shape", list), dict(_get(entry, "parameters", dict, {}))
    tensor = message.inputs.add(name=name, datatype=datatype)
    try:
        tensor.shape.extend(shape)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(
            f"shape of input {name!r} is {str(shape)[:80]}, expected an array of integers", field=name
        ) from error
    size = given.pop("binary_data_size", None)
    _write_parameters(given, tensor.parameters)
    if size is None:
        if "data" not in entry and "shared_memory_region" not in given:
            raise InvalidRequest(f"input {name!r} has neither data nor binary_data_size", field=name)
        message.raw_input_contents.append(_read_data(entry.get("data", []), name, datatype))
        return at
    if "data" in entry:
        raise InvalidRequest(f"input {name!r} has data and binary_data_size, expected one of them", field=name)
    if type(size) is not int or not 0 <= size <= len(body) - at:
        raise InvalidRequest(
            f"binary_data_size of input {name!r} is {str(size)[:40]}, and {len(body) - at} bytes are left for it", field=name
        )
    message.raw_input_contents.append(body[at : at + size])
    return at + size


def _read_data(data: object, name: str, datatype: str) -> bytes:
    """Elements in row-major order, nested or not. Raises InvalidRequest."""
    dtype = DTYPES.get(datatype)
    if dtype is None:
        return b""  # which is refused for its datatype
    try:
        values = np.array(data).reshape(-1)
        with np.errstate(over="ignore"):  # what is beyond the datatype's range is refused as any infinity is
            array = values.astype(dtype)
        fits = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}[dtype.kind]
        if not values.size or (values.dtype.kind in fits and (dtype.kind == "f" or np.array_equal(array, values))):
            return array.tobytes()
    except (ValueError, TypeError, OverflowError):
        pass
    raise InvalidRequest(f"data of input {name!r} is not an array of {datatype}", field=name)


def _write_parameters(given: Mapping[str, Any], into: Any) -> None:
    for name, value in given.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}.get(type(value))
        if kind == "int64_param" and value >= 1 << 63:
            kind = "uint64_param"
        try:
            if kind is None:
                raise ValueError("of another type")
            setattr(into[name], kind, value)
        except (ValueError, TypeError) as error:
            raise InvalidRequest(
                f"parameter {name[:80]!r} is {str(value)[:80]}, expected a string, a number of 64 bits, true or false",
                field=name,
            ) from error


def _entries(request: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _get(request, name, list, [])
    for entry in found:
        if not isinstance(entry, dict):
            raise InvalidRequest(f"{name} has {str(entry)[:40]!r}, expected objects", field=name)
    return found


def _flag(given: dict[str, Any], name: str) -> bool:
    """Takes it out."""
    value = given.pop(name, False)
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} is {str(value)[:40]!r}, expected true or false", field=name)
    return value


def _get(request: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = request.get(name, default)
    if not isinstance(value, kind):
        raise InvalidRequest(f"{name} is {str(value)[:40]!r}, expected {_KINDS[kind]}", field=name)
    return value


def _text(text: str) -> str:
    """Raises InvalidRequest for what no UTF-8 can say: JSON may have half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{text[:40]!r} is no text") from error
    return text
