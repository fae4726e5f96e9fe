"""Sequences of the Open Inference Protocol: sessions that a client names, begins and ends by flags."""

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import grpc
import numpy as np
import pytest
from statecell.oip import inference_pb2 as pb
from statecell.v1 import inference_pb2 as v1

from tests.conftest import Serve, Server
from tests.server.caller import Caller, info_of, reason_of
from tests.server.oip_caller import OipCaller, arrays, request, text_of

X = np.random.default_rng(5).standard_normal((6, 1, 10), dtype=np.float32)
IDS = count(1)


@pytest.fixture
def oip(server: Server) -> Iterator[OipCaller]:
    caller = OipCaller(server.address)
    yield caller
    caller.channel.close()


def refused(oip: OipCaller, message: pb.ModelInferRequest) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as error:
        oip.stub.ModelInfer(message)
    return error.value


@pytest.mark.parametrize("name", [next(IDS), "a patient's heart"])
@pytest.mark.parametrize("model", ["lstm", "gru", "rnn"])
def test_a_sequence_of_steps_equals_the_whole_call(oip: OipCaller, model: str, name: int | str) -> None:
    flags = [{"sequence_start": t == 0, "sequence_end": t == 5} for t in range(6)]
    steps = [oip.infer(model, X[t : t + 1], sequence_id=name, **flags[t]) for t in range(6)]
    assert np.array_equal(np.concatenate(steps), oip.infer(model, X))


def test_steps_may_have_any_length_and_an_answer_says_where_the_sequence_stands(oip: OipCaller) -> None:
    name, at = next(IDS), []
    for start, stop in ((0, 1), (1, 4), (4, 6)):
        answer = oip.stub.ModelInfer(request("lstm", {"x": X[start:stop]}, sequence_id=name, sequence_start=start == 0))
        at.append(answer.parameters["step_index"].int64_param)
    assert at == [1, 4, 6]
    assert np.array_equal(arrays(answer)["y"], oip.infer("lstm", X)[4:])


def test_the_rows_of_the_first_step_are_the_rows_of_the_sequence(oip: OipCaller) -> None:
    x, name = np.repeat(X, 3, 1), next(IDS)
    oip.infer("lstm", x[:2], sequence_id=name, sequence_start=True)
    error = refused(oip, request("lstm", {"x": X[2:]}, sequence_id=name))
    assert reason_of(error) == "SHAPE_MISMATCH"
    assert np.array_equal(oip.infer("lstm", x[2:], sequence_id=name), oip.infer("lstm", x)[2:])


def test_a_sequence_may_start_from_a_state_of_the_clients_own(oip: OipCaller) -> None:
    outputs = ["y", "h_n", "c_n"]
    half = arrays(oip.stub.ModelInfer(request("lstm", {"x": X[:3]}, outputs=outputs)))
    state = {"h_0": half["h_n"], "c_0": half["c_n"]}
    first = oip.stub.ModelInfer(request("lstm", {"x": X[3:4], **state}, sequence_id=next(IDS), sequence_start=True))
    assert np.array_equal(arrays(first)["y"], oip.infer("lstm", X)[3:4])


def test_a_number_and_its_digits_name_the_same_sequence_and_each_model_has_its_own(oip: OipCaller) -> None:
    name = next(IDS)
    for model in ("lstm", "gru"):
        oip.infer(model, X[:1], sequence_id=name, sequence_start=True)
    assert np.array_equal(oip.infer("lstm", X[1:], sequence_id=str(name)), oip.infer("lstm", X)[1:])
    assert np.array_equal(oip.infer("gru", X[1:], sequence_id=name), oip.infer("gru", X)[1:])


def test_a_models_name_with_a_slash_does_not_reach_into_anothers_sequences(oip: OipCaller) -> None:
    name = f"x/{next(IDS)}"
    oip.infer("lstm", X[:1], sequence_id=name, sequence_start=True)
    error = refused(oip, request("lstm/x", {"x": X[1:2]}, sequence_id=name.removeprefix("x/")))
    assert reason_of(error) == "MODEL_NOT_FOUND"
    assert np.array_equal(oip.infer("lstm", X[1:], sequence_id=name), oip.infer("lstm", X)[1:])


@pytest.mark.parametrize("nobody", [0, ""])
def test_without_a_sequence_id_a_call_is_stateless(oip: OipCaller, nobody: int | str) -> None:
    first = oip.infer("lstm", X[:1], sequence_id=nobody)
    assert np.array_equal(oip.infer("lstm", X[:1], sequence_id=nobody), first)


@pytest.mark.parametrize("flag", ["sequence_start", "sequence_end", "sequence_replace", "durable"])
def test_a_flag_without_a_sequence_id_is_refused(oip: OipCaller, flag: str) -> None:
    message = request("lstm", {"x": X[:1]})
    message.parameters[flag].bool_param = True
    error = refused(oip, message)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert flag in text_of(error)


def test_unknown_ended_and_expired_sequences_say_different_things(serve: Serve) -> None:
    with serve("--session-ttl", "0.5") as server:
        oip = OipCaller(server.address)
        errors = [refused(oip, request("lstm", {"x": X[:1]}, sequence_id=7))]
        oip.infer("lstm", X[:1], sequence_id=8, sequence_start=True, sequence_end=True)
        errors.append(refused(oip, request("lstm", {"x": X[:1]}, sequence_id=8)))
        oip.infer("lstm", X[:1], sequence_id=9, sequence_start=True)
        channel = Caller(server.address)
        while channel.stub.GetModel(v1.GetModelRequest(name="lstm")).model.session_count:
            time.sleep(0.1)
        errors.append(refused(oip, request("lstm", {"x": X[:1]}, sequence_id=9)))
    assert [reason_of(error) for error in errors] == ["SESSION_NOT_FOUND", "SESSION_NOT_FOUND", "SESSION_EXPIRED"]
    assert "never started" in text_of(errors[0])
    assert "has ended" in text_of(errors[1])
    assert {error.code() for error in errors} == {grpc.StatusCode.NOT_FOUND}


def test_a_sequence_that_a_killed_server_held_is_lost_and_no_other_is(serve: Serve, tmp_path: Path) -> None:
    flags = ["--sequence-roll", str(tmp_path / "roll")]
    with serve(*flags) as server:  # and killed at the end
        oip = OipCaller(server.address)
        for name in ("held", "again", "ended"):
            oip.infer("lstm", X[:1], sequence_id=name, sequence_start=True, sequence_end=name == "ended")
    with serve(*flags) as server:
        oip = OipCaller(server.address)
        reasons = {
            name: reason_of(refused(oip, request("lstm", {"x": X[:1]}, sequence_id=name)))
            for name in ("held", "again", "ended", "unknown")
        }
        oip.infer("lstm", X[:1], sequence_id="again", sequence_start=True, sequence_end=True)
    assert reasons == {
        "held": "SESSION_LOST",
        "again": "SESSION_LOST",
        "ended": "SESSION_NOT_FOUND",
        "unknown": "SESSION_NOT_FOUND",
    }
    with serve(*flags) as server:
        oip = OipCaller(server.address)
        assert reason_of(refused(oip, request("lstm", {"x": X[:1]}, sequence_id="held"))) == "SESSION_LOST"
        assert reason_of(refused(oip, request("lstm", {"x": X[:1]}, sequence_id="again"))) == "SESSION_NOT_FOUND"


def test_start_on_a_live_sequence_is_an_error_and_leaves_it_alone(oip: OipCaller) -> None:
    name = next(IDS)
    oip.infer("lstm", X[:2], sequence_id=name, sequence_start=True)
    error = refused(oip, request("lstm", {"x": X[:1]}, sequence_id=name, sequence_start=True))
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    assert reason_of(error) == "SESSION_EXISTS"
    assert np.array_equal(oip.infer("lstm", X[2:], sequence_id=name), oip.infer("lstm", X)[2:])


def test_start_on_a_live_sequence_begins_again_where_that_is_asked_for(oip: OipCaller) -> None:
    name = next(IDS)
    oip.infer("lstm", X[:2], sequence_id=name, sequence_start=True)
    oip.infer("lstm", X[:1], sequence_id=name, sequence_start=True, sequence_replace=True)
    assert np.array_equal(oip.infer("lstm", X[1:], sequence_id=name), oip.infer("lstm", X)[1:])


def test_a_repeated_request_id_gets_the_same_answer_and_advances_once(oip: OipCaller) -> None:
    name, whole = next(IDS), oip.infer("lstm", X)
    for t in range(6):
        flags = {"sequence_start": t == 0, "sequence_end": t == 5}
        for _ in range(3):
            step = oip.infer("lstm", X[t : t + 1], sequence_id=name, request_id=f"r{t}", **flags)
            assert np.array_equal(step, whole[t : t + 1])
    error = refused(oip, request("lstm", {"x": X[:1]}, sequence_id=name, request_id="r6"))
    assert "has ended" in text_of(error)


def test_a_request_id_from_longer_ago_is_refused_rather_than_applied_again(oip: OipCaller) -> None:
    name = next(IDS)
    for t in range(3):
        oip.infer("lstm", X[t : t + 1], sequence_id=name, request_id=f"r{t}", sequence_start=t == 0)
    error = refused(oip, request("lstm", {"x": X[1:2]}, sequence_id=name, request_id="r1", sequence_start=False))
    assert reason_of(error) == "STEP_OUT_OF_ORDER"
    assert np.array_equal(oip.infer("lstm", X[3:], sequence_id=name), oip.infer("lstm", X)[3:])


def test_one_request_id_for_two_different_steps_is_refused(oip: OipCaller) -> None:
    name = next(IDS)
    oip.infer("lstm", X[:1], sequence_id=name, request_id="same", sequence_start=True)
    error = refused(oip, request("lstm", {"x": X[1:2]}, sequence_id=name, request_id="same"))
    assert reason_of(error) == "INVALID_REQUEST"
    assert "own id" in text_of(error)


def test_a_request_that_failed_may_come_again_under_its_id(oip: OipCaller) -> None:
    name, nan = next(IDS), np.full((1, 1, 10), np.nan, np.float32)
    oip.infer("lstm", X[:1], sequence_id=name, request_id="a", sequence_start=True)
    assert reason_of(refused(oip, request("lstm", {"x": nan}, sequence_id=name, request_id="b"))) == "NON_FINITE_INPUT"
    oip.infer("lstm", X[1:2], sequence_id=name, request_id="b")
    assert np.array_equal(oip.infer("lstm", X[2:], sequence_id=name), oip.infer("lstm", X)[2:])


def test_a_first_step_that_fails_has_not_begun_the_sequence(oip: OipCaller) -> None:
    name, tokens = next(IDS), np.array([[99]])
    error = refused(oip, request("tagger", {"x": tokens}, sequence_id=name, sequence_start=True))
    assert reason_of(error) == "INPUT_REFUSED"
    assert "never started" in text_of(refused(oip, request("tagger", {"x": np.array([[1]])}, sequence_id=name)))
    oip.infer("tagger", np.array([[1]]), sequence_id=name, sequence_start=True)


def test_a_last_step_that_fails_has_not_ended_the_sequence(oip: OipCaller) -> None:
    name, x = next(IDS), np.array([[1, 2, 3]])
    oip.infer("tagger", x[:, :1], sequence_id=name, sequence_start=True)
    refused(oip, request("tagger", {"x": np.array([[99]])}, sequence_id=name, sequence_end=True))
    last = oip.infer("tagger", x[:, 1:], sequence_id=name, sequence_end=True)
    assert np.array_equal(last, oip.infer("tagger", x)[:, 1:])


def test_a_sequence_with_step_index_is_held_to_it(oip: OipCaller) -> None:
    name = next(IDS)
    oip.infer("lstm", X[:2], sequence_id=name, sequence_start=True, step_index=0)
    error = refused(oip, request("lstm", {"x": X[:1]}, sequence_id=name, step_index=1))
    assert (reason_of(error), info_of(error).metadata["expected_step_index"]) == ("STEP_OUT_OF_ORDER", "2")
    for _ in range(2):
        assert np.array_equal(oip.infer("lstm", X[2:3], sequence_id=name, step_index=2), oip.infer("lstm", X)[2:3])


def test_more_sequences_than_a_batch_are_no_wait(serve: Serve) -> None:
    with serve("--max-batch", "2") as server:
        oip = OipCaller(server.address)
        whole = oip.infer("lstm", X)
        for t in range(6):
            for name in range(1, 41):
                step = oip.infer("lstm", X[t : t + 1], sequence_id=name, sequence_start=t == 0, sequence_end=t == 5)
                assert np.array_equal(step, whole[t : t + 1])


def test_a_sequence_is_a_session_and_can_be_read_as_one(oip: OipCaller, caller: Caller) -> None:
    oip.infer("lstm", X[:4], sequence_id="seen", sequence_start=True)
    state = caller.state("sequence/lstm/seen")
    final = caller.infer("lstm", X[:4])
    assert np.array_equal(state["h_0"], final["h_n"])
    assert np.array_equal(state["c_0"], final["c_n"])


def test_a_sequence_that_was_deleted_as_a_session_is_gone_and_may_begin_again(oip: OipCaller, caller: Caller) -> None:
    oip.infer("lstm", X[:4], sequence_id="gone", sequence_start=True, request_id="a")
    caller.stub.DeleteSession(v1.DeleteSessionRequest(session_id="sequence/lstm/gone"))
    for options in ({}, {"request_id": "a"}):
        assert reason_of(refused(oip, request("lstm", {"x": X[:4]}, sequence_id="gone", **options))) == "SESSION_NOT_FOUND"
    first = oip.infer("lstm", X[:4], sequence_id="gone", sequence_start=True, request_id="a")
    assert np.array_equal(first, oip.infer("lstm", X)[:4])
    assert np.array_equal(oip.infer("lstm", X[4:], sequence_id="gone"), oip.infer("lstm", X)[4:])


def test_a_durable_sequence_needs_a_store(oip: OipCaller) -> None:
    error = refused(oip, request("lstm", {"x": X[:1]}, sequence_id=next(IDS), sequence_start=True, durable=True))
    assert "store" in text_of(error)


def test_a_model_that_is_not_streamable_has_no_sequences(oip: OipCaller) -> None:
    assert oip.infer("bidirectional", X).shape == (6, 1, 40)
    error = refused(oip, request("bidirectional", {"x": X}, sequence_id=next(IDS), sequence_start=True))
    assert reason_of(error) == "NOT_STREAMABLE"
