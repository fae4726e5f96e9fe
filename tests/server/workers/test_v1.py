"""statecell.v1 of a server with several workers: who is asked makes no difference."""

import random

import grpc
import numpy as np
import pytest
from statecell.tensor import pack, unpack
from statecell.v1 import inference_pb2 as pb

from tests.server.caller import Caller, reason_of
from tests.server.workers.conftest import Crowd

RANDOM = np.random.default_rng(3)


def x_of(steps: int = 1, batch: int = 1) -> np.ndarray:
    return RANDOM.standard_normal((steps, batch, 10)).astype("float32")


def whole(caller: Caller, inputs: list[np.ndarray]) -> np.ndarray:
    """The model run alone over all of a session's steps."""
    return next(iter(caller.infer("lstm", np.concatenate(inputs)).values()))


def test_mixed_traffic_over_several_connections_equals_the_model_run_alone(crowd: Crowd) -> None:
    draw = random.Random(5)
    sessions: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {c.create("lstm"): ([], []) for c in crowd.callers * 2}
    for _ in range(300):
        caller = draw.choice(crowd.callers)
        if draw.random() < 0.5:
            session = draw.choice(list(sessions))
            inputs, outputs = sessions[session]
            inputs.append(x_of(draw.choice((1, 1, 3))))
            index = sum(len(a) for a in inputs[:-1])
            outputs.append(caller.step(session, inputs[-1], index))
            again = draw.choice(crowd.callers).step(session, inputs[-1], index)  # by whatever worker: the same reply
            assert np.array_equal(again, outputs[-1])
            continue
        chosen = draw.sample(list(sessions), draw.randint(1, len(sessions)))
        x = x_of(1, len(chosen))
        message = pb.StreamStepsRequest(id=7, session_ids=chosen, inputs=[pack("x", x)])
        [reply] = caller.stream([message])
        assert (reply.id, list(reply.session_ids), list(reply.errors)) == (7, chosen, [])
        y = unpack(reply.outputs[0])
        for position, session in enumerate(chosen):
            sessions[session][0].append(x[:, position : position + 1])
            sessions[session][1].append(y[:, position : position + 1])
            assert reply.step_indexes[position] == sum(map(len, sessions[session][0]))
    for inputs, outputs in sessions.values():
        if inputs:
            assert np.allclose(np.concatenate(outputs), whole(crowd.callers[0], inputs), atol=1e-6)


def test_a_stream_of_messages_for_sessions_everywhere_answers_each_session_in_its_order(crowd: Crowd) -> None:
    here, mine, _, theirs = crowd.pair()
    pattern = [[mine], [theirs], [mine, theirs], [theirs], [mine], [theirs, mine, theirs], [mine], [mine]] * 12
    data = [x_of(1, len(ids)) for ids in pattern]
    messages = [
        pb.StreamStepsRequest(id=number, session_ids=ids, inputs=[pack("x", x)])
        for number, (ids, x) in enumerate(zip(pattern, data, strict=True))
    ]
    inputs: dict[str, list[np.ndarray]] = {mine: [], theirs: []}
    indexes = {mine: 0, theirs: 0}
    for message, x in zip(messages, data, strict=True):
        for position, session in enumerate(message.session_ids):
            inputs[session].append(x[:, position : position + 1])
            message.step_indexes.append(indexes[session])
            indexes[session] += 1
    replies = here.stream(messages)
    assert sorted(reply.id for reply in replies) == list(range(len(pattern)))
    seen: dict[str, list[tuple[int, np.ndarray]]] = {mine: [], theirs: []}
    for reply in replies:
        assert not reply.errors
        y = unpack(reply.outputs[0])
        for position, (session, index) in enumerate(zip(reply.session_ids, reply.step_indexes, strict=True)):
            seen[session].append((index, y[:, position : position + 1]))
    for session, answers in seen.items():
        order = [index for index, _ in answers]
        assert order == sorted(order), "answers of a session are in its order"
        assert np.allclose(np.concatenate([y for _, y in answers]), whole(here, inputs[session]), atol=1e-6)


def test_a_message_for_several_workers_says_what_is_wrong_with_some(crowd: Crowd) -> None:
    here, mine, there, theirs = crowd.pair()
    there.stub.DeleteSession(pb.DeleteSessionRequest(session_id=theirs))
    wide = there.create("lstm", 2)
    x = x_of(1, 4)
    [reply] = here.stream([pb.StreamStepsRequest(session_ids=[theirs, mine, wide], inputs=[pack("x", x)])])
    assert list(reply.session_ids) == [mine, wide]
    assert [(error.position, error.session_id, error.reason) for error in reply.errors] == [(0, theirs, "SESSION_NOT_FOUND")]
    y = unpack(reply.outputs[0])
    assert np.allclose(y[:, 1:], whole(here, [x[:, 2:]]), atol=1e-6)
    gru = there.create("gru")
    [reply] = here.stream([pb.StreamStepsRequest(session_ids=[mine, wide, gru], inputs=[pack("x", x)])])
    assert {error.reason for error in reply.errors} == {"INVALID_REQUEST"}
    assert len(reply.errors) == 3
    [reply] = here.stream([pb.StreamStepsRequest(session_ids=[mine, wide], inputs=[pack("x", x)])])
    assert {error.reason for error in reply.errors} == {"SHAPE_MISMATCH"}


def test_sessions_are_forked_read_restored_reset_and_deleted_by_any_worker(crowd: Crowd) -> None:
    here, _, _, theirs = crowd.pair()
    inputs = [x_of(), x_of(2)]
    here.step(theirs, inputs[0], 0)
    fork = here.stub.ForkSession(pb.ForkSessionRequest(session_id=theirs)).sessions[0].session_id
    snapshot = here.stub.GetState(pb.GetStateRequest(session_id=theirs)).snapshot
    restored = here.stub.CreateSession(pb.CreateSessionRequest(model="lstm", snapshot=snapshot)).session
    assert restored.step_index == 1
    expected = whole(here, inputs)[1:]
    for session in (theirs, fork, restored.session_id):
        for caller in crowd.callers[:1]:
            assert np.allclose(caller.step(session, inputs[1], 1), expected, atol=1e-6)
    assert here.stub.ResetSession(pb.ResetSessionRequest(session_id=theirs)).session.step_index == 0
    here.stub.DeleteSession(pb.DeleteSessionRequest(session_id=theirs))
    for caller in crowd.callers:
        with pytest.raises(grpc.RpcError) as raised:
            caller.step(theirs, inputs[0], 0)
        assert reason_of(raised.value) == "SESSION_NOT_FOUND"


def test_lists_and_counts_are_of_all_workers(crowd: Crowd) -> None:
    for caller in crowd.callers:
        token, ids = "", []
        while True:
            page = caller.stub.ListSessions(pb.ListSessionsRequest(model="lstm", page_size=3, page_token=token))
            ids += [session.session_id for session in page.sessions]
            if not (token := page.next_page_token):
                break
        assert len(ids) == len(set(ids))
        assert len({session[:8] for session in ids}) >= 2
        models = {model.name: model.session_count for model in caller.stub.ListModels(pb.ListModelsRequest()).models}
        assert models["lstm"] == len(ids)
        assert caller.stub.GetModel(pb.GetModelRequest(name="lstm")).model.session_count == len(ids)
        with pytest.raises(grpc.RpcError) as raised:
            caller.stub.ListSessions(pb.ListSessionsRequest(page_token="x"))
        assert reason_of(raised.value) == "INVALID_REQUEST"
