"""Bad input gets its reason; the server and the session go on."""

import grpc
import numpy as np
import pytest
from statecell.tensor import Array, pack
from statecell.v1 import inference_pb2 as pb
from statecell.v1 import tensor_pb2

from tests.server.caller import Caller, info_of, reason_of

GOOD = np.ones((1, 1, 10), np.float32)


def nan(value: float) -> Array:
    x = GOOD.copy()
    x[0, 0, 3] = value
    return x


BAD_X = {
    "no time steps": (np.ones((0, 1, 10), np.float32), "EMPTY_TENSOR"),
    "no rows": (np.ones((1, 0, 10), np.float32), "EMPTY_TENSOR"),
    "no features": (np.ones((1, 1, 0), np.float32), "EMPTY_TENSOR"),
    "NaN": (nan(np.nan), "NON_FINITE_INPUT"),
    "infinity": (nan(-np.inf), "NON_FINITE_INPUT"),
    "another input_size": (np.ones((1, 1, 11), np.float32), "SHAPE_MISMATCH"),
    "another batch": (np.ones((1, 2, 10), np.float32), "SHAPE_MISMATCH"),
    "an axis too few": (np.ones((1, 10), np.float32), "SHAPE_MISMATCH"),
    "an axis too many": (np.ones((1, 1, 1, 10), np.float32), "SHAPE_MISMATCH"),
    "float64": (np.ones((1, 1, 10)), "DTYPE_MISMATCH"),
    "int64": (np.ones((1, 1, 10), np.int64), "DTYPE_MISMATCH"),
}


@pytest.mark.parametrize(("x", "reason"), BAD_X.values(), ids=BAD_X.keys())
def test_a_bad_x_is_refused_and_the_session_goes_on(caller: Caller, x: Array, reason: str) -> None:
    session = caller.create("lstm")
    before = caller.step(session, GOOD, 0)
    with pytest.raises(grpc.RpcError) as error:
        caller.step(session, x, 1)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error.value) == reason
    assert "x" in str(error.value.details())
    assert info_of(error.value).metadata["field"] == "x"
    (reply,) = caller.stream([pb.StreamStepsRequest(session_ids=[session], inputs=[pack("x", x)], step_indexes=[1])])
    assert [e.reason for e in reply.errors] == [reason]
    assert caller.index(session) == 1
    after = caller.step(session, GOOD, 1)
    assert np.array_equal(np.concatenate([before, after]), caller.infer("lstm", np.repeat(GOOD, 2, 0))["y"])


@pytest.mark.parametrize(("x", "reason"), [case for case in BAD_X.values() if case[0].shape != (1, 2, 10)])
def test_infer_refuses_the_same(caller: Caller, x: Array, reason: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        caller.infer("lstm", x)
    assert reason_of(error.value) == reason


@pytest.mark.parametrize("model", ["lstm", "gru", "rnn", "lstm_cell"])
@pytest.mark.parametrize("axis", [0, 1])
def test_nothing_empty_reaches_a_kernel_that_would_die_of_it(caller: Caller, model: str, axis: int) -> None:
    shape = [3, 10] if model == "lstm_cell" else [3, 3, 10]
    shape[axis] = 0
    with pytest.raises(grpc.RpcError) as error:
        caller.infer(model, np.ones(shape, np.float32))
    assert reason_of(error.value) == "EMPTY_TENSOR"


def test_one_bad_token_does_not_fail_its_neighbours(caller: Caller) -> None:
    sessions = [caller.create("tagger") for _ in range(5)]
    x = np.array([[1], [2], [99], [3], [4]])
    (reply,) = caller.stream([pb.StreamStepsRequest(session_ids=sessions, inputs=[pack("x", x)], step_indexes=[0] * 5)])
    assert [(e.position, e.reason) for e in reply.errors] == [(2, "INPUT_REFUSED")]
    assert list(reply.session_ids) == [s for i, s in enumerate(sessions) if i != 2]
    assert [caller.index(s) for s in sessions] == [1, 1, 0, 1, 1]
    assert np.array_equal(caller.step(sessions[3], np.array([[5]]), 1), caller.infer("tagger", np.array([[3, 5]]))["y"][:, 1:])


def test_unknown_names_say_what_there_is(caller: Caller) -> None:
    with pytest.raises(grpc.RpcError) as error:
        caller.create("lstn")
    assert (error.value.code(), reason_of(error.value)) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert "lstm" in str(error.value.details())
    with pytest.raises(grpc.RpcError) as error:
        caller.stub.GetModel(pb.GetModelRequest(name="lstm", version="7"))
    assert reason_of(error.value) == "MODEL_NOT_FOUND"
    for call in (
        lambda: caller.step("nobody", GOOD),
        lambda: caller.state("nobody"),
        lambda: caller.stub.ForkSession(pb.ForkSessionRequest(session_id="nobody")),
        lambda: caller.stub.ResetSession(pb.ResetSessionRequest(session_id="nobody")),
        lambda: caller.stub.DeleteSession(pb.DeleteSessionRequest(session_id="nobody")),
    ):
        with pytest.raises(grpc.RpcError) as error:
            call()
        assert (error.value.code(), reason_of(error.value)) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")


def test_tensors_that_contradict_themselves_are_named(caller: Caller) -> None:
    session = caller.create("lstm")
    short = tensor_pb2.Tensor(name="x", dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[1, 1, 10], data=b"\0" * 36)
    untyped = tensor_pb2.Tensor(name="x", shape=[1, 1, 10], data=b"\0" * 40)
    negative = tensor_pb2.Tensor(name="x", dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[1, -1, 10], data=b"\0" * 40)
    for inputs in ([short], [untyped], [negative], [pack("z", GOOD)], [], [pack("x", GOOD), pack("x", GOOD)]):
        with pytest.raises(grpc.RpcError) as error:
            caller.stub.Step(pb.StepRequest(session_id=session, inputs=inputs))
        assert reason_of(error.value) == "INVALID_REQUEST"
    assert caller.index(session) == 0


def test_a_bad_initial_state_makes_no_session(caller: Caller) -> None:
    count = len(caller.stub.ListSessions(pb.ListSessionsRequest()).sessions)
    h = np.zeros((2, 1, 20), np.float32)
    for state, reason in (
        ({"h_0": h}, "INVALID_REQUEST"),
        ({"h_0": h, "c_0": h[:1]}, "SHAPE_MISMATCH"),
        ({"h_0": h, "c_0": h.astype(np.float64)}, "DTYPE_MISMATCH"),
        ({"h_0": h, "c_0": h * np.nan}, "NON_FINITE_INPUT"),
    ):
        with pytest.raises(grpc.RpcError) as error:
            caller.create("lstm", **state)
        assert reason_of(error.value) == reason
    with pytest.raises(grpc.RpcError) as error:
        caller.create("lstm", batch=-1)
    assert reason_of(error.value) == "INVALID_REQUEST"
    assert len(caller.stub.ListSessions(pb.ListSessionsRequest()).sessions) == count


def test_a_model_that_cannot_be_streamed_says_why(caller: Caller) -> None:
    with pytest.raises(grpc.RpcError) as error:
        caller.create("bidirectional")
    assert (error.value.code(), reason_of(error.value)) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_STREAMABLE")
    assert "bidirectional" in str(error.value.details())


def test_the_largest_numbers_are_numbers(caller: Caller) -> None:
    x = np.full((2, 1, 10), np.finfo(np.float32).max, np.float32)
    assert np.isfinite(caller.step(caller.create("lstm"), x, 0)).all()
