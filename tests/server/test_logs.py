"""The log and the access log, as an operator reads them."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from statecell.tensor import pack
from statecell.v1 import inference_pb2 as pb

from tests.conftest import Serve
from tests.server.caller import Caller

X = np.full((1, 1, 10), 0.123456, np.float32)
ACCESS = "statecell_server.access"
Lines = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def lines(serve: Serve, lstm_only: Path, tmp_path: Path) -> Lines:
    """What a server logs as JSON, with flags, while `use` does something to it: (address, HTTP port's address)."""

    def run(use: Callable[[str, str], None], *flags: str) -> list[dict[str, Any]]:
        log = tmp_path / "log"
        with log.open("w") as file, serve("--log-format", "json", *flags, models=lstm_only, stderr=file) as server:
            use(server.address, server.http)
            assert server.stop() == 0
        return [json.loads(line) for line in log.read_text().splitlines()]

    return run


def test_json_is_an_object_a_line_and_the_start_says_version_settings_and_models(lines: Lines) -> None:
    found = lines(lambda *_: None, "--max-batch", "lstm=7", "--store", "memory")
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in found)
    assert all(datetime.fromisoformat(line["time"]).utcoffset() is not None for line in found)
    messages = [line["message"] for line in found]
    (begun,) = [message for message in messages if message.startswith("statecell-server 0")]
    for said in ("port = 0", 'store = "memory"', "models.lstm.max_batch = 7"):
        assert said in begun
    assert "max_queue" not in begun
    assert "models: lstm/1" in messages
    assert not any(line["logger"] == ACCESS for line in found)


@pytest.mark.parametrize("front", ["http2", "grpcio"])
def test_the_access_log_has_a_line_for_each_call_and_nothing_of_what_was_sent(lines: Lines, front: str) -> None:
    ids: list[str] = []

    def use(address: str, _: str) -> None:
        caller = Caller(address)
        ids.append(caller.create("lstm"))
        request = pb.StepRequest(session_id=ids[0], inputs=[pack("x", X)])
        caller.stub.Step(request, metadata=[("x-request-id", "order-7"), ("authorization", "Bearer hunter2")])
        caller.stream([pb.StreamStepsRequest(session_ids=ids, inputs=[pack("x", X)])])
        with pytest.raises(grpc.RpcError):
            caller.step("nobody", X)
        with pytest.raises(grpc.RpcError):
            caller.channel.unary_unary("/statecell.v1.InferenceService/Stpe", lambda message: message)(b"")
        caller.channel.close()

    found = [line for line in lines(use, "--access-log", "--front", front) if line["logger"] == ACCESS]
    service = "/statecell.v1.InferenceService"
    expected = [
        (f"{service}/CreateSession", "OK"),
        (f"{service}/Step", "OK"),
        (f"{service}/StreamSteps", "OK"),
        (f"{service}/Step", "NOT_FOUND"),
    ]
    if front == "http2":  # grpcio answers of itself where there is no such method
        expected.append((f"{service}/Stpe", "UNIMPLEMENTED"))
    assert [(line["rpc"], line["code"]) for line in found] == expected
    assert [line.get("request_id") for line in found[:3]] == [None, "order-7", None]
    assert all(0 <= line["seconds"] < 60 and line["peer"].startswith(("127.0.0.1:", "[::1]:")) for line in found)
    text = json.dumps(found)
    assert "hunter2" not in text
    assert ids[0] not in text
    assert "0.1234" not in text


def test_the_http_ports_requests_are_in_the_access_log_and_an_id_cannot_begin_a_line(lines: Lines) -> None:
    def use(_: str, http: str) -> None:
        request = urllib.request.Request(f"http://{http}/v2/models/lstm", headers={"X-Request-Id": "a\tb\x7f" + "c" * 300})
        urllib.request.urlopen(request).close()
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://{http}/v2/models/nothing%0Aelse")

    found = [line for line in lines(use, "--access-log", "--http-port", "0") if line["logger"] == ACCESS]
    assert [(line["rpc"], line["code"]) for line in found] == [
        ("GET /v2/models/lstm", "200"),
        ("GET /v2/models/nothing\\nelse", "404"),
    ]
    assert found[0]["request_id"].startswith(r"a\tb\x7fccc")
    assert len(found[0]["request_id"]) <= 128


def test_text_is_the_default(serve: Serve, lstm_only: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as file, serve("--access-log", models=lstm_only, stderr=file) as server:
        caller = Caller(server.address)
        caller.create("lstm")
        caller.channel.close()
        assert server.stop() == 0
    (line,) = [line for line in log.read_text().splitlines() if ACCESS in line]
    assert "INFO statecell_server.access: /statecell.v1.InferenceService/CreateSession OK 0." in line
