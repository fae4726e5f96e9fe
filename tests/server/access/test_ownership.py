"""To anyone but its owner, a session does not exist: random calls of two callers, by all rpcs of both protocols."""

import random
from collections.abc import Callable

import grpc
import numpy as np
import pytest
from statecell.tensor import Array, pack
from statecell.v1 import inference_pb2 as pb

from tests.server.access.conftest import Guarded, Stubs
from tests.server.oip_caller import arrays, request

X = np.random.default_rng(7).standard_normal((1, 1, 10)).astype(np.float32)
INPUTS = [pack("x", X)]

Rpc = Callable[[Stubs, str], object]
RPCS: dict[str, Rpc] = {
    "Step": lambda stubs, i: stubs.v1.Step(pb.StepRequest(session_id=i, inputs=INPUTS)),
    "Step, no row": lambda stubs, i: stubs.v1.Step(pb.StepRequest(session_id=i, inputs=[pack("x", np.repeat(X, 2, 0))])),
    "Step, indexed": lambda stubs, i: stubs.v1.Step(pb.StepRequest(session_id=i, inputs=INPUTS, step_index=0)),
    "GetState": lambda stubs, i: stubs.v1.GetState(pb.GetStateRequest(session_id=i)),
    "ForkSession": lambda stubs, i: stubs.v1.ForkSession(pb.ForkSessionRequest(session_id=i)),
    "ResetSession": lambda stubs, i: stubs.v1.ResetSession(pb.ResetSessionRequest(session_id=i)),
    "DeleteSession": lambda stubs, i: stubs.v1.DeleteSession(pb.DeleteSessionRequest(session_id=i)),
}


def created(stubs: Stubs, *, durable: bool) -> str:
    """At step_index 1."""
    session = stubs.v1.CreateSession(pb.CreateSessionRequest(model="lstm", durable=durable)).session.session_id
    stubs.v1.Step(pb.StepRequest(session_id=session, inputs=INPUTS))
    return str(session)


def state(stubs: Stubs, session: str) -> bytes:
    snapshot = stubs.v1.GetState(pb.GetStateRequest(session_id=session)).snapshot
    return bytes(snapshot.SerializeToString(deterministic=True))


def refusal(rpc: Rpc, stubs: Stubs, session: str) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        rpc(stubs, session)
    return caught.value.code(), str(caught.value.details()).replace(session, "ID")


@pytest.mark.parametrize("durable", [False, True])
def test_no_rpc_reaches_a_session_of_another(guarded: Guarded, durable: bool) -> None:
    alice, bob, draw = guarded.of("alice"), guarded.of("bob"), random.Random(0)
    mine, other = created(alice, durable=durable), created(bob, durable=durable)
    never = mine[:8] + "".join(reversed(mine[8:30])) + mine[30:]
    rebranded = mine.partition("~")[0] + "~" + other.partition("~")[2]  # alice's session under bob's tag
    bare = mine.partition("~")[0]
    before = state(alice, mine)
    for _ in range(30):
        name = draw.choice(list(RPCS))
        code, words = refusal(RPCS[name], bob, mine)
        assert code is grpc.StatusCode.NOT_FOUND, name
        assert (code, words) == refusal(RPCS[name], bob, never)
        for guess in (rebranded, bare):
            assert refusal(RPCS[name], bob, guess)[0] is grpc.StatusCode.NOT_FOUND, name
        assert state(alice, mine) == before, name
        RPCS["Step"](bob, other)  # in between, what is one's own goes on
    assert state(bob, other) != before


@pytest.mark.parametrize("durable", [False, True])
def test_a_stream_steps_its_callers_sessions_alone(guarded: Guarded, durable: bool) -> None:
    alice, bob = guarded.of("alice"), guarded.of("bob")
    mine, other = created(alice, durable=durable), created(bob, durable=durable)
    before = state(alice, mine)
    two = [pack("x", np.repeat(X, 2, 1))]
    messages = [
        pb.StreamStepsRequest(id=1, session_ids=[mine], inputs=INPUTS),
        pb.StreamStepsRequest(id=2, session_ids=[other], inputs=INPUTS, step_indexes=[1]),
        pb.StreamStepsRequest(id=3, session_ids=[mine, other], inputs=two, step_indexes=[1, 2]),
    ]
    answers = {answer.id: answer for answer in bob.v1.StreamSteps(iter(messages))}
    assert [error.reason for error in answers[1].errors] == ["SESSION_NOT_FOUND"]
    assert not answers[1].outputs
    assert list(answers[2].session_ids) == [other]
    assert list(answers[3].session_ids) == [other]
    assert [(error.session_id, error.reason) for error in answers[3].errors] == [(mine, "SESSION_NOT_FOUND")]
    assert state(alice, mine) == before


def test_forks_and_lists_are_their_owners_and_admins_see_all(guarded: Guarded) -> None:
    alice, bob, root = guarded.of("alice"), guarded.of("bob"), guarded.of("root")
    mine, other = created(alice, durable=False), created(bob, durable=True)
    fork = alice.v1.ForkSession(pb.ForkSessionRequest(session_id=mine)).sessions[0].session_id
    assert refusal(RPCS["GetState"], bob, fork)[0] is grpc.StatusCode.NOT_FOUND
    assert state(alice, fork) == state(alice, mine)

    def listed(stubs: Stubs) -> set[str]:
        return {session.session_id for session in stubs.v1.ListSessions(pb.ListSessionsRequest()).sessions}

    assert {mine, fork} <= listed(alice)
    assert other in listed(bob)
    assert not listed(alice) & listed(bob)
    assert {mine, fork, other} <= listed(root)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("durable", [False, True])
def test_two_callers_have_two_sequences_of_one_id(guarded: Guarded, durable: bool, streamed: bool) -> None:
    name, xs = f"same-{durable}-{streamed}", np.random.default_rng(3).standard_normal((6, 1, 1, 10)).astype(np.float32)

    def infer(stubs: Stubs, x: Array, *, start: bool) -> Array:
        message = request("lstm", {"x": x}, sequence_id=name, sequence_start=start, durable=durable)
        if not streamed:
            return arrays(stubs.oip.ModelInfer(message))["y"]
        (answer,) = stubs.oip.ModelStreamInfer(iter([message]))
        assert not answer.error_message, answer.error_message
        return arrays(answer.infer_response)["y"]

    callers = [guarded.of("alice"), guarded.of("bob")]
    for at in range(3):  # each with its own inputs, by turns
        found = [infer(stubs, xs[at + 3 * i], start=at == 0) for i, stubs in enumerate(callers)]
    for i, y in enumerate(found):
        whole = np.concatenate(list(xs[3 * i : 3 * i + 3]))
        alone = arrays(callers[i].oip.ModelInfer(request("lstm", {"x": whole})))["y"]
        assert np.array_equal(y[-1], alone[-1])
    session = f"{'durable-' if durable else ''}sequence/lstm/{name}"
    listed = callers[1].v1.ListSessions(pb.ListSessionsRequest()).sessions
    (own,) = [s.session_id for s in listed if s.session_id.startswith(session)]
    assert refusal(RPCS["DeleteSession"], callers[0], own)[0] is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as caught:
        guarded.of("root").oip.ModelInfer(request("lstm", {"x": xs[0]}, sequence_id=name))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
