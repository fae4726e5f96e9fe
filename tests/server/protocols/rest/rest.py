"""A thin caller of the REST protocol, so that the tests see the bytes and nothing of a client."""

import http.client
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from statecell.tensor import Array

from tests.conftest import LIMIT

LENGTH = "Inference-Header-Content-Length"
DTYPES = {"FP32": "<f4", "INT64": "<i8"}


class Reply(NamedTuple):
    """What came back: `json` is what the body has of it, `rest` what follows that."""

    status: int
    headers: Mapping[str, str]
    json: Any
    rest: bytes


class Rest:
    """One connection that is kept."""

    def __init__(self, address: str) -> None:
        self.connection = http.client.HTTPConnection(address, timeout=LIMIT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        """`headers`: _ stands for -."""
        self.connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
        answer = self.connection.getresponse()
        content, found = answer.read(), {name.title(): text for name, text in answer.headers.items()}
        size = int(answer.headers.get(LENGTH, len(content)))
        return Reply(answer.status, found, json.loads(content[:size]), content[size:])

    def post(self, path: str, content: object) -> Reply:
        return self.call("POST", path, json.dumps(content).encode())

    def infer(self, model: str, x: Array, **parameters: Any) -> Array:
        """`y` of one call, as JSON both ways."""
        reply = self.post(f"/v2/models/{model}/infer", {"parameters": parameters, "inputs": [tensor(x)]})
        assert reply.status == 200, reply
        (output,) = reply.json["outputs"]
        return np.array(output["data"], DTYPES[output["datatype"]]).reshape(output["shape"])

    def infer_binary(self, model: str, x: Array, **parameters: Any) -> Array:
        """`y` of one call, as binary data both ways."""
        head = json.dumps({"parameters": {**parameters, "binary_data_output": True}, "inputs": [binary(x)]}).encode()
        length = {LENGTH.replace("-", "_"): str(len(head))}
        reply = self.call("POST", f"/v2/models/{model}/infer", head + x.tobytes(), **length)
        assert reply.status == 200, reply
        (output,) = reply.json["outputs"]
        assert output["parameters"]["binary_data_size"] == len(reply.rest)
        return np.frombuffer(reply.rest, DTYPES[output["datatype"]]).reshape(output["shape"])


def tensor(x: Array) -> dict[str, Any]:
    """The input x, as JSON."""
    return {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.reshape(-1).tolist()}


def binary(x: Array) -> dict[str, Any]:
    """The input x, whose data follows."""
    return {"name": "x", "datatype": "FP32", "shape": list(x.shape), "parameters": {"binary_data_size": x.nbytes}}
