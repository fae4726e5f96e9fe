"""What Triton's users are used to: START begins again, NaN goes through, settings are told, control tensors."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import count
from typing import Any

import grpc
import numpy as np
import pytest
from statecell.oip import inference_pb2 as pb
from statecell.tensor import pack, unpack
from statecell.v1 import inference_pb2 as v1

from tests.conftest import Serve, Server
from tests.server.caller import Caller, reason_of
from tests.server.oip_caller import OipCaller, arrays, request

X = np.random.default_rng(5).standard_normal((6, 1, 10), dtype=np.float32)
NAN = np.full((1, 1, 10), np.nan, np.float32)
IDS = count(1)


@pytest.fixture(scope="module")
def easy(serve: Serve) -> Iterator[Server]:
    """A server that restarts sequences and lets NaN through, but for the model gru."""
    starts = ("--sequence-start", "restart", "--sequence-start", "gru=refuse")
    numbers = ("--non-finite", "allow", "--non-finite", "gru=refuse")
    with serve(*starts, *numbers, "--store", "memory", "--http-port", "0", "--log-level", "WARNING") as running:
        yield running


@pytest.fixture
def oip(easy: Server) -> Iterator[OipCaller]:
    caller = OipCaller(easy.address)
    yield caller
    caller.channel.close()


def ask(server: Server, path: str, body: object = None) -> tuple[int, Any]:
    """(status, what the JSON says)"""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://{server.http}{path}", data)) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.parametrize("durable", [False, True])
def test_start_on_a_live_sequence_begins_it_again_where_the_server_says_so(oip: OipCaller, durable: bool) -> None:
    name, more = next(IDS), {"durable": True} if durable else {}
    expected = oip.infer("lstm", X)
    for _ in range(2):
        first = oip.infer("lstm", X[:1], sequence_id=name, sequence_start=True, **more)
        assert np.array_equal(first, expected[:1])
        assert np.array_equal(oip.infer("lstm", X[1:3], sequence_id=name), expected[1:3])


def test_start_that_is_sent_again_by_its_request_id_is_a_repeat_and_no_new_beginning(oip: OipCaller) -> None:
    name = next(IDS)
    start = request("lstm", {"x": X[:1]}, sequence_id=name, sequence_start=True, request_id="1")
    first, again = oip.stub.ModelInfer(start), oip.stub.ModelInfer(start)
    assert np.array_equal(arrays(first)["y"], arrays(again)["y"])
    oip.infer("lstm", X[1:2], sequence_id=name, request_id="2")
    with pytest.raises(grpc.RpcError) as error:
        oip.stub.ModelInfer(start)  # applied long ago: its client has heard of a later one
    assert reason_of(error.value) == "STEP_OUT_OF_ORDER"
    assert np.array_equal(oip.infer("lstm", X[2:3], sequence_id=name), oip.infer("lstm", X)[2:3])


def test_start_on_a_live_sequence_is_refused_for_a_model_that_says_so(oip: OipCaller) -> None:
    name = next(IDS)
    oip.infer("gru", X[:1], sequence_id=name, sequence_start=True)
    with pytest.raises(grpc.RpcError) as error:
        oip.infer("gru", X[:1], sequence_id=name, sequence_start=True)
    assert reason_of(error.value) == "SESSION_EXISTS"
    assert np.array_equal(oip.infer("gru", X[1:], sequence_id=name), oip.infer("gru", X)[1:])


def test_start_begins_again_over_rest_and_on_a_stream(easy: Server, oip: OipCaller) -> None:
    name, tensor = next(IDS), {"name": "x", "datatype": "FP32", "shape": [1, 1, 10], "data": X[0, 0].tolist()}
    body = {"inputs": [tensor], "parameters": {"sequence_id": name, "sequence_start": True}}
    answers = [ask(easy, "/v2/models/lstm/infer", body) for _ in range(2)]
    assert [status for status, _ in answers] == [200, 200]
    assert answers[0][1] == answers[1][1]
    starts = [request("lstm", {"x": X[:1]}, sequence_id=name, sequence_start=True) for _ in range(3)]
    assert [answer.error_message for answer in oip.stream(starts)] == [""] * 3


@pytest.mark.parametrize("model", ["lstm", "rnn"])
def test_nan_that_is_let_through_stays_in_the_state_of_its_own_session(easy: Server, model: str) -> None:
    caller = Caller(easy.address)
    ids = [caller.create(model) for _ in range(9)]
    x = np.repeat(X, 9, 1)
    x[1, 4] = np.nan
    x[2, 7, 3] = np.inf
    messages = [
        v1.StreamStepsRequest(session_ids=ids, inputs=[pack("x", x[t : t + 1])], step_indexes=[t] * 9) for t in range(len(x))
    ]
    replies = caller.stream(messages)
    assert not any(reply.errors for reply in replies)
    outputs = np.concatenate([unpack(reply.outputs[0]) for reply in replies])
    alone = caller.infer(model, X)["y"]
    for row in range(9):
        if row not in (4, 7):
            assert np.array_equal(outputs[:, row : row + 1], alone), row
    assert not np.array_equal(outputs[1:, 4:5], alone[1:])
    assert model == "lstm" or np.isnan(outputs[1:, 4]).all()  # ONNX Runtime's LSTM makes numbers of NaN
    assert np.array_equal(outputs[:1, 4:5], alone[:1])
    state = caller.stub.GetState(v1.GetStateRequest(session_id=ids[4])).snapshot
    restored = caller.stub.CreateSession(v1.CreateSessionRequest(model=model, snapshot=state)).session.session_id
    assert np.array_equal(caller.step(restored, X[:1]), caller.step(ids[4], X[:1]), equal_nan=True)
    caller.stub.ResetSession(v1.ResetSessionRequest(session_id=ids[4]))
    assert np.array_equal(caller.step(ids[4], X[:1]), alone[:1])
    caller.channel.close()


def test_nan_is_refused_for_a_model_that_says_so_and_by_default(oip: OipCaller, server: Server) -> None:
    default = OipCaller(server.address)
    for caller, model in ((oip, "gru"), (default, "lstm")):
        with pytest.raises(grpc.RpcError) as error:
            caller.infer(model, NAN)
        assert reason_of(error.value) == "NON_FINITE_INPUT"
    assert np.isnan(oip.infer("rnn", NAN)).all()
    default.channel.close()


@pytest.mark.parametrize(
    ("name", "datatype", "says"),
    [
        ("sequence_id", "UINT64", "send its number as the request's parameter sequence_id"),
        ("sequence_control_input", "UINT32", "send its 1 as the request's parameter sequence_start"),
    ],
)
def test_control_tensors_are_told_where_they_belong(easy: Server, oip: OipCaller, name: str, datatype: str, says: str) -> None:
    message = request("lstm", {"x": X[:1]})
    message.inputs.add(name=name, datatype=datatype, shape=[1])
    message.raw_input_contents.append(np.array([1], "<u8" if datatype == "UINT64" else "<u4").tobytes())
    with pytest.raises(grpc.RpcError) as error:
        oip.stub.ModelInfer(message)
    assert reason_of(error.value) == "INVALID_REQUEST"
    assert f"input {name!r} is a control tensor" in str(error.value.details())
    assert says in str(error.value.details())
    tensors = [
        {"name": "x", "datatype": "FP32", "shape": [1, 1, 10], "data": [0] * 10},
        {"name": name, "datatype": datatype, "shape": [1], "data": [1]},
    ]
    status, answer = ask(easy, "/v2/models/lstm/infer", {"inputs": tensors})
    assert status == 400
    assert says in answer["error"]


def test_trace_and_log_settings_are_told(easy: Server, oip: OipCaller) -> None:
    traced = oip.stub.TraceSetting(pb.TraceSettingRequest())
    assert list(traced.settings["trace_level"].value) == ["OFF"]
    assert ask(easy, "/v2/trace/setting")[1]["trace_level"] == ["OFF"]
    assert ask(easy, "/v2/models/lstm/trace/setting")[0] == 200
    assert ask(easy, "/v2/models/nothing/trace/setting")[0] == 404
    logged = oip.stub.LogSettings(pb.LogSettingsRequest())
    assert (logged.settings["log_info"].bool_param, logged.settings["log_warning"].bool_param) == (False, True)
    assert ask(easy, "/v2/logging")[1] == {
        "log_info": False, "log_warning": True, "log_error": True, "log_verbose_level": 0, "log_format": "text", "log_file": "",
    }  # fmt: skip


def test_trace_and_log_settings_cannot_be_changed(easy: Server, oip: OipCaller) -> None:
    tracing, logging = pb.TraceSettingRequest(), pb.LogSettingsRequest()
    tracing.settings["trace_level"].value.append("TIMESTAMPS")
    logging.settings["log_info"].bool_param = True
    for rpc, message in ((oip.stub.TraceSetting, tracing), (oip.stub.LogSettings, logging)):
        with pytest.raises(grpc.RpcError, match="they are read-only here") as error:
            rpc(message)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert ask(easy, "/v2/logging", {"log_info": True})[0] == 400
    assert ask(easy, "/v2/trace/setting", {"trace_level": ["TIMESTAMPS"]})[0] == 400
