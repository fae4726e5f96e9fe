"""The Open Inference Protocol over REST: the same sequences as on gRPC, to the last bit."""

import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from statecell_server import errors
from statecell_server.protocols.rest.answer import STATUS
from statecell_server.protocols.rest.request import JSON_BYTES
from statecell_server.protocols.status import CODES

from tests.conftest import LIMIT, Serve, Server
from tests.server.caller import Caller
from tests.server.oip_caller import OipCaller
from tests.server.protocols.rest.rest import LENGTH, Rest, binary, tensor

X = np.random.default_rng(3).standard_normal((7, 1, 10), dtype=np.float32)


@pytest.fixture(scope="module")
def server(serve: Serve) -> Iterator[Server]:
    with serve("--http-port", "0", "--store", "memory") as running:
        yield running


@pytest.fixture
def rest(server: Server) -> Iterator[Rest]:
    with Rest(server.http) as rest:
        yield rest


def test_metadata_is_what_grpc_says(server: Server, rest: Rest) -> None:
    assert rest.call("GET", "/v2").json["name"] == "statecell"
    found = rest.call("GET", "/v2/models/lstm").json
    assert found["versions"] == ["1"]
    assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, -1, 10]}]
    assert rest.call("GET", "/v2/models/lstm/versions/1").json == found
    config = rest.call("GET", "/v2/models/lstm/config").json
    assert config["max_batch_size"] == 0
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert "sequence_batching" in config
    assert "sequence_batching" not in rest.call("GET", "/v2/models/bidirectional/config").json


def test_health(rest: Rest) -> None:
    assert rest.call("GET", "/v2/health/live").json == {"live": True}
    assert rest.call("GET", "/v2/health/ready").json == {"ready": True}
    assert rest.call("GET", "/v2/models/lstm/ready").json == {"name": "lstm", "ready": True}
    assert rest.call("GET", "/v2/models/nobody/ready").status == 503
    assert rest.call("GET", "/health/ready").status == 200


@pytest.mark.parametrize("kind", ["json", "binary"])
def test_a_sequence_is_the_whole_run_to_the_last_bit(server: Server, rest: Rest, kind: str) -> None:
    step = rest.infer if kind == "json" else rest.infer_binary
    steps = [
        step("lstm", x[None], sequence_id=f"rest {kind}", sequence_start=t == 0, sequence_end=t == 6) for t, x in enumerate(X)
    ]
    assert np.array_equal(np.concatenate(steps), Caller(server.address).infer("lstm", X)["y"])
    assert np.array_equal(step("lstm", X), np.concatenate(steps)), "and a stateless call gives the same"


def test_a_sequence_goes_on_by_turns_on_grpc_and_rest(server: Server, rest: Rest) -> None:
    callers = (rest.infer, OipCaller(server.address).infer, rest.infer_binary)
    steps = [callers[t % 3]("lstm", x[None], sequence_id=90, sequence_start=t == 0) for t, x in enumerate(X)]
    assert np.array_equal(np.concatenate(steps), Caller(server.address).infer("lstm", X)["y"])


def test_a_request_that_comes_again_has_the_same_answer_and_steps_once(rest: Rest) -> None:
    first = {"id": "a", "parameters": {"sequence_id": 91, "sequence_start": True}, "inputs": [tensor(X[:1])]}
    second = {"id": "b", "parameters": {"sequence_id": 91}, "inputs": [tensor(X[1:2])]}
    path = "/v2/models/lstm/infer"
    answers = [rest.post(path, body).json for body in (first, first, second, second)]
    assert answers[0] == answers[1]
    assert answers[2] == answers[3]
    assert [answer["parameters"]["step_index"] for answer in answers] == [1, 1, 2, 2]
    assert answers[2]["id"] == "b"


def test_a_durable_sequence_says_its_step_index(rest: Rest) -> None:
    path, given = "/v2/models/lstm/infer", {"sequence_id": "kept", "sequence_start": True, "durable": True}
    assert rest.post(path, {"parameters": given, "inputs": [tensor(X[:1])]}).status == 200
    again = {"parameters": {"sequence_id": "kept", "step_index": 1}, "inputs": [tensor(X[1:2])]}
    assert rest.post(path, again).json == rest.post(path, again).json
    late = {"parameters": {"sequence_id": "kept", "step_index": 0}, "inputs": [tensor(X[:1])]}
    reply = rest.post(path, late)
    assert (reply.status, reply.json["reason"]) == (400, "STEP_OUT_OF_ORDER")


def test_outputs_are_the_ones_asked_for_each_in_its_form(server: Server, rest: Rest) -> None:
    asked = [{"name": "h_n"}, {"name": "y", "parameters": {"binary_data": True}}]
    reply = rest.post("/v2/models/lstm/infer", {"inputs": [tensor(X)], "outputs": asked})
    expected = Caller(server.address).infer("lstm", X)
    h_n, y = reply.json["outputs"]
    assert (h_n["name"], y["name"]) == ("h_n", "y")
    assert np.array_equal(np.array(h_n["data"], np.float32).reshape(h_n["shape"]), expected["h_n"])
    assert "data" not in y
    assert reply.rest == expected["y"].tobytes()
    assert reply.headers["Content-Type"] == "application/octet-stream"


def test_large_tensors_come_and_go_as_they_are(server: Server, rest: Rest) -> None:
    x = np.random.default_rng(1).standard_normal((1500, 2, 10), dtype=np.float32)
    expected = Caller(server.address).infer("lstm", x)["y"]
    assert np.array_equal(rest.infer_binary("lstm", x), expected)
    assert np.array_equal(rest.infer("lstm", x), expected)


def test_data_may_be_nested(rest: Rest) -> None:
    flat = rest.infer("lstm", X)
    reply = rest.post("/v2/models/lstm/infer", {"inputs": [{**tensor(X), "data": X.tolist()}]})
    assert reply.json["outputs"][0]["data"] == flat.reshape(-1).tolist()


def test_models_are_listed_unloaded_and_loaded(serve: Serve) -> None:
    with serve("--http-port", "0") as own, Rest(own.http) as rest:
        index = rest.post("/v2/repository/index", {"ready": True}).json
        assert {"name": "lstm", "version": "1", "state": "READY", "reason": ""} in index
        assert rest.post("/v2/repository/models/lstm/unload", {"parameters": {"unload_dependents": False}}).status == 200
        assert rest.call("GET", "/v2/models/lstm").status == 404
        absent = [model for model in rest.call("POST", "/v2/repository/index").json if model["name"] == "lstm"]
        assert [(model["state"], model["reason"]) for model in absent] == [("UNAVAILABLE", "unloaded")]
        assert rest.post("/v2/repository/models/lstm/load", {}).status == 200
        assert rest.call("GET", "/v2/models/lstm/ready").status == 200
        rest.infer("lstm", X[:1], sequence_id=1, sequence_start=True)
        reply = rest.post("/v2/repository/models/lstm/unload", {})
        assert (reply.status, reply.json["reason"]) == (400, "MODEL_IN_USE")


def test_statistics_count_requests_of_both_fronts(server: Server, rest: Rest) -> None:
    def counts() -> Any:
        (found,) = rest.call("GET", "/v2/models/gru/versions/1/stats").json["model_stats"]
        return [found["inference_stats"][outcome]["count"] for outcome in ("success", "fail")]

    before = counts()
    rest.infer("gru", X)
    OipCaller(server.address).infer("gru", X)
    assert rest.post("/v2/models/gru/infer", {"inputs": []}).status == 400
    assert [after - count for after, count in zip(counts(), before, strict=True)] == [2, 1]
    names = {model["name"] for model in rest.call("GET", "/v2/models/stats").json["model_stats"]}
    assert {"lstm", "gru"} <= names


BAD: list[tuple[object, str]] = [
    (b"{", "no JSON"),
    (b"[1]", "no JSON object"),
    (b"[" * 100_000, "nested too deep"),
    (b'{"inputs": ' + b"9" * 100_000 + b"}", "a number of too many digits"),
    (b'{"inputs": "\xff"}', "no UTF-8"),
    (b'{"inputs": 1e999}', "expected an array"),
    ({"inputs": [3]}, "expected objects"),
    ({"inputs": [{}]}, "name is"),
    ({"inputs": [{**tensor(X), "shape": [1, "2"]}]}, "expected an array of integers"),
    ({"inputs": [{**tensor(X), "shape": [-1, 1, 10]}]}, "says FP32"),
    ({"inputs": [{**tensor(X), "shape": [10**30]}]}, "expected an array of integers"),
    ({"inputs": [{**tensor(X), "shape": [1] * 40}]}, "40 axes"),
    ({"inputs": [{**tensor(X), "data": [[1], [2, 3]]}]}, "not an array of FP32"),
    ({"inputs": [{**tensor(X), "data": ["1"] * 70}]}, "not an array of FP32"),
    ({"inputs": [{**tensor(X), "data": [None] * 70}]}, "not an array of FP32"),
    ({"inputs": [{**tensor(X), "data": [1e39] * 70}]}, "expected finite numbers"),
    ({"inputs": [{**tensor(X), "data": [float("nan")] * 70}]}, "expected finite numbers"),
    ({"inputs": [{**tensor(X), "datatype": "BYTES"}]}, "expected one of FP32"),
    ({"inputs": [{**tensor(X), "datatype": "INT64", "data": [2**63] * 70}]}, "not an array of INT64"),
    ({"inputs": [{**tensor(X), "datatype": "BOOL"}]}, "not an array of BOOL"),
    ({"inputs": [tensor(X), tensor(X)]}, "came twice"),
    ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}, "neither data nor"),
    ({"inputs": [{**tensor(X), **binary(X)}]}, "expected one of them"),
    ({"inputs": [binary(X)]}, "0 bytes are left for it"),
    ({"inputs": [tensor(X)], "outputs": [{"name": "z"}]}, "z"),
    ({"inputs": [tensor(X)], "parameters": {"sequence_start": True}}, "without a sequence_id"),
    ({"inputs": [tensor(X)], "parameters": {"sequence_id": 1.5}}, "expected an integer or a string"),
    ({"inputs": [tensor(X)], "parameters": {"sequence_id": [1]}}, "expected a string"),
    ({"inputs": [tensor(X)], "parameters": {"sequence_id": 2**70}}, "expected a string"),
    ({"inputs": [tensor(X)], "parameters": {"binary_data_output": 1}}, "expected true or false"),
    (b'{"id": "\\ud800", "inputs": []}', "is no text"),
    ({"id": "i" * 300, "parameters": {"sequence_id": 1}, "inputs": [tensor(X)]}, "the most is 256"),
]


@pytest.mark.parametrize(("body", "said"), BAD, ids=[said for _, said in BAD])
def test_bad_requests_are_told_what_is_wrong(rest: Rest, body: object, said: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = rest.call("POST", "/v2/models/lstm/infer", content)
    assert reply.status == 400, reply
    assert said in reply.json["error"]
    assert reply.json["reason"] in {error.reason for error in CODES}
    assert rest.infer("lstm", X[:1]).shape == (1, 1, 20), "and the connection goes on"


@pytest.mark.parametrize("length", ["-1", "x", "99999999", "²"])
def test_a_wrong_header_length_is_refused(rest: Rest, length: str) -> None:
    rest.connection.request("POST", "/v2/models/lstm/infer", b"{}", {LENGTH: length.encode("utf-8")})
    answer = rest.connection.getresponse()
    assert answer.status == 400
    assert LENGTH in json.loads(answer.read())["error"]


def test_bytes_that_belong_to_no_input_are_refused(rest: Rest) -> None:
    head = json.dumps({"inputs": [binary(X)]}).encode()
    length = {LENGTH.replace("-", "_"): str(len(head))}
    reply = rest.call("POST", "/v2/models/lstm/infer", head + X.tobytes() + b"more", **length)
    assert (reply.status, "4 bytes follow" in reply.json["error"]) == (400, True)


def test_json_that_would_hold_everybody_up_is_refused(rest: Rest) -> None:
    reply = rest.call("POST", "/v2/models/lstm/infer", b" " * (JSON_BYTES + 1))
    assert reply.status == 413
    assert "binary data" in reply.json["error"]


def test_a_compressed_body_is_refused(rest: Rest) -> None:
    assert rest.call("POST", "/v2/models/lstm/infer", b"x", Content_Encoding="gzip").status == 415


def test_what_is_not_there_is_said_as_json(rest: Rest) -> None:
    assert rest.call("GET", "/v2/nothing").status == 404
    reply = rest.call("GET", "/v2/models/lstm/infer")
    assert (reply.status, reply.headers["Allow"]) == (405, "POST")
    assert "error" in reply.json
    unknown = rest.post("/v2/models/nobody/infer", {"inputs": [tensor(X)]})
    assert (unknown.status, unknown.json["reason"]) == (404, "MODEL_NOT_FOUND")
    never = rest.post("/v2/models/lstm/infer", {"inputs": [tensor(X[:1])], "parameters": {"sequence_id": 404}})
    assert (never.status, never.json["reason"]) == (404, "SESSION_NOT_FOUND")
    assert never.json["sequence_id"] == "404"


def test_a_full_server_says_when_to_come_again(serve: Serve) -> None:
    with serve("--http-port", "0", "--session-memory", "2KiB") as server, Rest(server.http) as rest:
        body = {"inputs": [tensor(X[:1])], "parameters": {"sequence_start": True}}
        replies = [
            rest.post("/v2/models/lstm/infer", {**body, "parameters": {"sequence_start": True, "sequence_id": n}})
            for n in range(1, 6)
        ]
    assert {reply.status for reply in replies} == {200, 429}
    assert int(replies[-1].headers["Retry-After"]) >= 1


def test_every_error_has_its_status() -> None:
    assert set(CODES.values()) == set(STATUS)
    assert STATUS[CODES[errors.Draining]] == 503


def test_a_step_whose_client_has_gone_is_not_applied(server: Server) -> None:
    """As a call of gRPC that is cancelled: none of its time steps, or, if it was done by then, all of them."""
    caller = OipCaller(server.address)
    long = np.random.default_rng(5).standard_normal((200_000, 1, 10), dtype=np.float32)
    caller.infer("lstm", X[:1], sequence_id="left", sequence_start=True)
    rest = Rest(server.http)
    head = json.dumps({"parameters": {"sequence_id": "left"}, "inputs": [binary(long)]}).encode()
    rest.connection.request("POST", "/v2/models/lstm/infer", head + long.tobytes(), {LENGTH: str(len(head))})
    end = time.monotonic() + LIMIT
    while not any("_steps_waiting{" in line and line.endswith("1.0") for line in _metrics(server) if '"lstm"' in line):
        assert time.monotonic() < end, "it does not run"
    rest.connection.close()
    y = caller.infer("lstm", X[1:2], sequence_id="left")
    expected = Caller(server.address).infer("lstm", X[:2])["y"][1:]
    assert np.array_equal(y, expected), "the long request was cut off, and the sequence is where it was"


def _metrics(server: Server) -> list[str]:
    connection = Rest(server.http).connection
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return text.splitlines()


def test_health_says_that_the_server_was_told_to_stop_before_it_does(serve: Serve) -> None:
    with serve("--http-port", "0", "--store", "memory") as server, Rest(server.http) as rest:
        assert rest.call("GET", "/health/ready").json == {"status": "SERVING"}
        server.process.terminate()
        replies = [rest.call("GET", "/health/ready")]
        while replies[-1].status == 200:  # the signal is on its way
            replies.append(rest.call("GET", "/health/ready"))
        assert (replies[-1].status, replies[-1].json) == (503, {"status": "NOT_SERVING"})
        assert rest.call("GET", "/v2/health/live").status == 200
        assert server.process.wait(timeout=LIMIT) == 0
