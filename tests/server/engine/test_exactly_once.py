"""A step is applied once, however often and in whatever order it is sent."""

import grpc
import numpy as np
import pytest
from statecell.tensor import pack, unpack
from statecell.v1 import inference_pb2 as pb

from tests.server.caller import Caller, info_of, reason_of

X = np.random.default_rng(3).standard_normal((8, 1, 10), dtype=np.float32)


def test_a_repeated_step_index_gets_the_stored_reply_and_does_not_advance(caller: Caller) -> None:
    session = caller.create("lstm")
    first = caller.step(session, X[:3], 0)
    state = caller.state(session)
    for _ in range(3):
        assert np.array_equal(caller.step(session, X[:3], 0), first)
    assert caller.index(session) == 3
    assert all(np.array_equal(array, caller.state(session)[name]) for name, array in state.items())
    assert np.array_equal(caller.step(session, X[3:], 3), caller.infer("lstm", X)["y"][3:])


@pytest.mark.parametrize("index", [0, 2, 4, 99])
def test_any_other_index_is_refused_and_names_the_expected_one(caller: Caller, index: int) -> None:
    session = caller.create("lstm")
    caller.step(session, X[:1], 0)
    caller.step(session, X[1:3], 1)
    with pytest.raises(grpc.RpcError) as error:
        caller.step(session, X[:1], index)
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(error.value) == "STEP_OUT_OF_ORDER"
    assert info_of(error.value).metadata["expected_step_index"] == "3"
    assert np.array_equal(caller.step(session, X[3:], 3), caller.infer("lstm", X)["y"][3:])


def test_a_repeat_of_another_length_is_no_repeat(caller: Caller) -> None:
    session = caller.create("lstm")
    caller.step(session, X[:2], 0)
    with pytest.raises(grpc.RpcError) as error:
        caller.step(session, X[:3], 0)
    assert reason_of(error.value) == "STEP_OUT_OF_ORDER"


def test_pipelined_steps_and_their_repeats_are_applied_once_and_in_order(caller: Caller) -> None:
    session = caller.create("lstm")
    order = [0, 1, 1, 2, 2, 3, 3, 4, 5, 5, 6, 7, 7]
    messages = [
        pb.StreamStepsRequest(id=i, session_ids=[session], inputs=[pack("x", X[t : t + 1])], step_indexes=[t])
        for i, t in enumerate(order)
    ]
    replies = {reply.id: reply for reply in caller.stream(messages)}
    expected = caller.infer("lstm", X)["y"]
    for i, t in enumerate(order):
        assert np.array_equal(unpack(replies[i].outputs[0]), expected[t : t + 1])
    assert caller.index(session) == 8


def test_a_message_of_old_and_new_steps_answers_each_as_it_deserves(caller: Caller) -> None:
    a, b, c = (caller.create("lstm") for _ in range(3))
    first = caller.step(b, X[:1], 0)
    x = np.repeat(X[:1], 4, 1)
    message = pb.StreamStepsRequest(id=5, session_ids=[a, b, "unknown", c], inputs=[pack("x", x)], step_indexes=[0, 0, 0, 7])
    (reply,) = caller.stream([message])
    assert list(reply.session_ids) == [a, b]
    assert np.array_equal(unpack(reply.outputs[0]), np.concatenate([first, first], 1))
    assert [(e.position, e.reason) for e in reply.errors] == [(2, "SESSION_NOT_FOUND"), (3, "STEP_OUT_OF_ORDER")]
    assert [caller.index(s) for s in (a, b, c)] == [1, 1, 0]


def test_without_step_index_a_second_step_in_flight_is_refused(caller: Caller) -> None:
    session = caller.create("lstm")
    message = pb.StreamStepsRequest(session_ids=[session, session], inputs=[pack("x", np.repeat(X[:1], 2, 1))])
    (reply,) = caller.stream([message])
    assert list(reply.session_ids) == [session]
    assert [(e.position, e.reason) for e in reply.errors] == [(1, "STEP_OUT_OF_ORDER")]
    assert caller.index(session) == 1


def test_a_step_behind_a_failed_one_is_not_applied(caller: Caller) -> None:
    """Token 99 does not exist: the model itself refuses it, and the step that was queued behind must not run from there."""
    session = caller.create("tagger")
    tokens = [np.array([[3]]), np.array([[99]]), np.array([[4]])]
    messages = [
        pb.StreamStepsRequest(id=t, session_ids=[session], inputs=[pack("x", tokens[t])], step_indexes=[t]) for t in range(3)
    ]
    replies = {reply.id: reply for reply in caller.stream(messages)}
    assert not replies[0].errors
    assert replies[1].errors[0].reason == "INPUT_REFUSED"
    assert replies[2].errors[0].reason == "STEP_OUT_OF_ORDER"
    assert caller.index(session) == 1
    assert np.array_equal(caller.step(session, tokens[2], 1), caller.infer("tagger", np.array([[3, 4]]))["y"][:, 1:])


def test_a_cancelled_step_leaves_the_state_as_it_was_or_is_answered_again(caller: Caller) -> None:
    long = np.random.default_rng(4).standard_normal((20_000, 1, 10), dtype=np.float32)
    session = caller.create("lstm")
    caller.step(session, X[:1], 0)
    call = caller.stub.Step.future(pb.StepRequest(session_id=session, inputs=[pack("x", long)], step_index=1))
    call.cancel()
    state = caller.state(session)
    assert caller.index(session) == 1
    assert np.array_equal(caller.step(session, X[1:2], 1), caller.infer("lstm", X[:2])["y"][1:])
    assert not np.array_equal(caller.state(session)["h_0"], state["h_0"])
