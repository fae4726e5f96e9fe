"""Forks, resets, snapshots, deletes, lists, and what an id that is gone is told."""

import time

import grpc
import numpy as np
import pytest
from statecell.tensor import pack
from statecell.v1 import inference_pb2 as pb

from tests.conftest import Serve
from tests.server.caller import Caller, reason_of

X = np.random.default_rng(5).standard_normal((6, 1, 10), dtype=np.float32)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_forks_go_on_from_the_same_state_and_then_apart(caller: Caller) -> None:
    session = caller.create("lstm")
    caller.step(session, X[:3], 0)
    forks = caller.stub.ForkSession(pb.ForkSessionRequest(session_id=session, count=3)).sessions
    assert [fork.step_index for fork in forks] == [3, 3, 3]
    assert len({session, *(fork.session_id for fork in forks)}) == 4
    expected = caller.infer("lstm", X)["y"]
    caller.step(forks[0].session_id, -X[3:], 3)
    assert np.array_equal(caller.step(forks[1].session_id, X[3:], 3), expected[3:])
    assert np.array_equal(caller.step(session, X[3:], 3), expected[3:])
    caller.stub.DeleteSession(pb.DeleteSessionRequest(session_id=session))
    assert np.array_equal(caller.step(forks[2].session_id, X[3:], 3), expected[3:])


def test_reset_goes_back_to_the_initial_state(caller: Caller) -> None:
    session = caller.create("lstm")
    first = caller.step(session, X, 0)
    assert caller.stub.ResetSession(pb.ResetSessionRequest(session_id=session)).session.step_index == 0
    assert all(not array.any() for array in caller.state(session).values())
    assert np.array_equal(caller.step(session, X, 0), first)


def test_a_deleted_session_is_gone_and_its_memory_given_to_the_next(caller: Caller) -> None:
    session = caller.create("lstm")
    caller.step(session, X, 0)
    caller.stub.DeleteSession(pb.DeleteSessionRequest(session_id=session))
    with pytest.raises(grpc.RpcError) as error:
        caller.step(session, X, 6)
    assert reason_of(error.value) == "SESSION_NOT_FOUND"
    assert all(not array.any() for array in caller.state(caller.create("lstm")).values())


def test_a_snapshot_goes_on_elsewhere_where_it_was_taken(caller: Caller, serve: Serve) -> None:
    session = caller.create("lstm", 2)
    x = np.repeat(X, 2, 1)
    caller.step(session, x[:4], 0)
    snapshot = caller.stub.GetState(pb.GetStateRequest(session_id=session)).snapshot
    with serve() as other:
        elsewhere = Caller(other.address)
        created = elsewhere.stub.CreateSession(pb.CreateSessionRequest(model="lstm", snapshot=snapshot)).session
        assert (created.step_index, created.batch) == (4, 2)
        assert same(elsewhere.state(created.session_id), caller.state(session))
        assert np.array_equal(elsewhere.step(created.session_id, x[4:], 4), caller.step(session, x[4:], 4))
        elsewhere.channel.close()


def test_a_damaged_or_foreign_snapshot_is_refused(caller: Caller) -> None:
    session = caller.create("lstm")
    caller.step(session, X[:2], 0)
    good = caller.stub.GetState(pb.GetStateRequest(session_id=session)).snapshot
    damaged = pb.Snapshot()
    damaged.CopyFrom(good)
    damaged.states[0].data = bytes([good.states[0].data[0] ^ 1]) + good.states[0].data[1:]
    moved = pb.Snapshot()
    moved.CopyFrom(good)
    moved.step_index += 1
    newer = pb.Snapshot()
    newer.CopyFrom(good)
    newer.format = 9
    for model, snapshot in (("lstm", damaged), ("lstm", moved), ("lstm", newer), ("gru", good)):
        with pytest.raises(grpc.RpcError) as error:
            caller.stub.CreateSession(pb.CreateSessionRequest(model=model, snapshot=snapshot))
        assert reason_of(error.value) == "SNAPSHOT_MISMATCH"


def test_sessions_are_listed_page_by_page(serve: Serve) -> None:
    with serve() as server:
        caller = Caller(server.address)
        ids = [caller.create("lstm") for _ in range(5)] + [caller.create("gru")]
        listed, token = [], ""
        while True:
            page = caller.stub.ListSessions(pb.ListSessionsRequest(model="lstm", page_size=2, page_token=token))
            listed += [session.session_id for session in page.sessions]
            token = page.next_page_token
            if not token:
                break
        assert listed == ids[:5]
        assert len(caller.stub.ListSessions(pb.ListSessionsRequest()).sessions) == 6
        (model,) = [m for m in caller.stub.ListModels(pb.ListModelsRequest()).models if m.name == "lstm"]
        assert model.session_count == 5
        with pytest.raises(grpc.RpcError) as error:
            caller.stub.ListSessions(pb.ListSessionsRequest(page_token="x"))
        assert reason_of(error.value) == "INVALID_REQUEST"
        caller.channel.close()


def test_an_idle_session_expires_and_its_owner_is_told(serve: Serve) -> None:
    with serve("--session-ttl", "0.5") as server:
        caller = Caller(server.address)
        session = caller.create("lstm")
        deadline = time.monotonic() + 120
        while caller.stub.ListSessions(pb.ListSessionsRequest()).sessions:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with pytest.raises(grpc.RpcError) as error:
            caller.step(session, X)
        assert reason_of(error.value) == "SESSION_EXPIRED"
        caller.channel.close()


def test_a_session_of_a_server_that_is_gone_is_lost_not_unknown(caller: Caller, serve: Serve) -> None:
    with serve() as other:
        elsewhere = Caller(other.address)
        session = elsewhere.create("lstm")
        elsewhere.channel.close()
    with pytest.raises(grpc.RpcError) as error:
        caller.step(session, X)
    assert reason_of(error.value) == "SESSION_LOST"


def test_sessions_beyond_the_memory_for_states_are_refused_and_room_is_found_again(serve: Serve) -> None:
    row = 2 * 2 * 20 * 4
    with serve("--state-memory", str(row * 3), "--spill-memory", "0") as server:
        caller = Caller(server.address)
        ids = [caller.create("lstm") for _ in range(3)]
        with pytest.raises(grpc.RpcError) as error:
            caller.create("lstm")
        assert (error.value.code(), reason_of(error.value)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STATE_BUDGET_EXCEEDED")
        with pytest.raises(grpc.RpcError) as error:
            caller.stub.ForkSession(pb.ForkSessionRequest(session_id=ids[0], count=2))
        assert reason_of(error.value) == "STATE_BUDGET_EXCEEDED"
        for session in ids:
            caller.step(session, X, 0)
        caller.stub.DeleteSession(pb.DeleteSessionRequest(session_id=ids[0]))
        assert np.array_equal(caller.step(caller.create("lstm"), X), caller.infer("lstm", X)["y"])
        caller.channel.close()


def test_idle_sessions_make_room_and_come_back_as_they_were(serve: Serve) -> None:
    row = 2 * 2 * 20 * 4
    with serve("--state-memory", str(row * 2), "--spill-memory", str(row * 600), "--max-batch", "4") as server:
        caller = Caller(server.address)
        ids = [caller.create("lstm", batch) for batch in (1, 2) for _ in range(100)]
        twins = [
            fork.session_id for fork in caller.stub.ForkSession(pb.ForkSessionRequest(session_id=ids[0], count=10)).sessions
        ]
        expected = {batch: caller.infer("lstm", np.repeat(X, batch, 1))["y"] for batch in (1, 2)}
        for t in range(3):
            for i, session in enumerate(ids):
                batch = 1 + i // 100
                y = caller.step(session, np.repeat(X[t : t + 1], batch, 1), t)
                assert np.array_equal(y, expected[batch][t : t + 1])
        for twin in twins:
            assert np.array_equal(caller.step(twin, X, 0), expected[1])
        assert caller.index(ids[7]) == 3
        more = caller.stub.ForkSession(pb.ForkSessionRequest(session_id=ids[7], count=5)).sessions
        for fork in more:
            assert np.array_equal(caller.step(fork.session_id, X[3:], 3), expected[1][3:])
        caller.channel.close()


def test_steps_beyond_the_queue_are_refused_with_a_time_to_retry(serve: Serve) -> None:
    with serve("--max-queue", "4") as server:
        caller = Caller(server.address)
        session = caller.create("lstm")
        messages = [
            pb.StreamStepsRequest(id=t, session_ids=[session], inputs=[pack("x", X[:1])], step_indexes=[t]) for t in range(64)
        ]
        replies = {reply.id: reply for reply in caller.stream(messages)}
        assert len(replies) == 64
        errors = [reply.errors[0] for reply in replies.values() if reply.errors]
        assert {error.reason for error in errors} <= {"QUEUE_FULL", "STEP_OUT_OF_ORDER"}
        assert all(error.HasField("retry_delay") for error in errors if error.reason == "QUEUE_FULL")
        done = [reply.id for reply in replies.values() if not reply.errors]
        assert caller.index(session) == len(done)
        caller.channel.close()
