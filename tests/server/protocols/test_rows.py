"""Steps of one session and one time step take a short way, and nobody can tell which way a step took."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from statecell.tensor import Array, pack, unpack
from statecell.v1 import inference_pb2 as pb
from statecell.v1.tensor_pb2 import Tensor

from tests.conftest import Serve, Server
from tests.server.caller import Caller, reason_of
from tests.server.oip_caller import OipCaller, request

STEP = "/statecell.v1.InferenceService/Step"
INPUTS: dict[str, Array] = {
    "lstm": np.random.default_rng(1).standard_normal((40, 1, 10), np.float32),
    "gru": np.random.default_rng(2).standard_normal((40, 1, 10), np.float32),
    "lstm_cell": np.random.default_rng(3).standard_normal((40, 1, 10), np.float32),
    "batch_first": np.random.default_rng(4).standard_normal((40, 1, 1, 10), np.float32),
    "tagger": np.random.default_rng(5).integers(0, 11, (40, 1, 1)),
}
"""One time step after the other, each in the model's own layout."""


def at(model: str, t: int) -> Array:
    return INPUTS[model][t : t + 1] if model in ("lstm", "gru") else INPUTS[model][t]


@pytest.fixture(scope="module")
def grpcio(serve: Serve) -> Iterator[str]:
    """A server over the library's front, where all steps take the general way."""
    with serve("--front", "grpcio") as running:
        yield running.address


@pytest.mark.parametrize("model", INPUTS)
@pytest.mark.parametrize("indexed", [True, False])
def test_a_step_call_is_answered_with_the_same_message(caller: Caller, grpcio: str, model: str, indexed: bool) -> None:
    callers = (caller, Caller(grpcio))
    sessions = [c.create(model) for c in callers]
    for t in range(5):
        replies = []
        for c, session in zip(callers, sessions, strict=True):
            message = pb.StepRequest(session_id=session, inputs=[pack("x", at(model, t))], step_index=t if indexed else None)
            replies.append(c.stub.Step(message))
        assert replies[0] == replies[1]
        assert replies[0].step_index == t + 1


@pytest.mark.parametrize("model", INPUTS)
def test_a_message_of_a_stream_is_answered_with_the_same_message(caller: Caller, grpcio: str, model: str) -> None:
    found = []
    for c in (caller, Caller(grpcio)):
        session = c.create(model)
        messages = [
            pb.StreamStepsRequest(id=t - 3, session_ids=[session], inputs=[pack("x", at(model, t))], step_indexes=[t])
            for t in range(6)
        ]
        replies = c.stream(messages)
        assert [reply.session_ids for reply in replies] == [[session]] * 6
        for reply in replies:
            del reply.session_ids[:]
        found.append(replies)
    assert found[0] == found[1]
    assert [reply.id for reply in found[0]] == [-3, -2, -1, 0, 1, 2]


@pytest.mark.parametrize("model", INPUTS)
def test_a_request_of_a_sequence_is_answered_with_the_same_message(server: Server, grpcio: str, model: str) -> None:
    found = []
    for address in (server.address, grpcio):
        c, number = OipCaller(address), 1 + list(INPUTS).index(model)
        messages = [
            request(
                model,
                {"x": at(model, t)},
                request_id=f"r{t}" if t % 2 else "",
                sequence_id=number,
                sequence_start=t == 0,
                sequence_end=t == 7,
            )
            for t in range(8)
        ]
        found.append([c.stub.ModelInfer(message) for message in messages] + c.stream(messages))
    assert found[0] == found[1]
    assert [reply.parameters["step_index"].int64_param for reply in found[0][:8]] == list(range(1, 9))


def test_requests_of_another_form_are_read_all_the_same(caller: Caller) -> None:
    """Fields in another order, twice, unknown or not packed: protobuf allows it all."""
    send: Any = caller.channel.unary_unary(STEP, response_deserializer=pb.StepResponse.FromString)
    x, session, other = at("lstm", 0), caller.create("lstm"), caller.create("lstm")
    name = pb.StepRequest(session_id=session).SerializeToString()
    tensor = pb.StepRequest(inputs=[pack("x", x)]).SerializeToString()
    content = pack("x", x)
    head = content.SerializeToString()[: -len(content.data) - 2]
    backwards = b"\x22" + bytes([len(content.data)]) + content.data + head
    index = pb.StepRequest(step_index=0).SerializeToString()
    want = unpack(caller.stub.Infer(pb.InferRequest(model="lstm", inputs=[content])).outputs[0])
    forms = [
        index + name + tensor,
        name + index + tensor,
        pb.StepRequest(session_id=other).SerializeToString() + tensor + name,  # the last of a field counts
        name + tensor + b"\x78\x01",  # an unknown field
        name + b"\x12" + bytes([len(backwards)]) + backwards,
    ]
    for form in forms:
        caller.stub.ResetSession(pb.ResetSessionRequest(session_id=session))
        reply = send(form)
        assert reply.step_index == 1
        assert np.array_equal(unpack(reply.outputs[0]), want)
    assert caller.index(other) == 0


@pytest.mark.parametrize(
    "broken",
    [
        pack("x", np.zeros((1, 1, 11), np.float32)),
        pack("x", np.zeros((1, 1, 10), np.float64)),
        pack("z", np.zeros((1, 1, 10), np.float32)),
        pack("x", np.full((1, 1, 10), np.nan, np.float32)),
        pack("x", np.zeros((10, 1, 1), np.float32)),
    ],
)
def test_a_step_that_is_refused_leaves_its_neighbours_and_its_own_state(caller: Caller, broken: Tensor) -> None:
    session, good = caller.create("lstm"), [caller.create("lstm") for _ in range(4)]
    caller.step(session, at("lstm", 0), 0)
    before = caller.state(session)
    calls = [caller.stub.Step.future(pb.StepRequest(session_id=g, inputs=[pack("x", at("lstm", 0))])) for g in good]
    with pytest.raises(grpc.RpcError) as refused:
        caller.stub.Step(pb.StepRequest(session_id=session, inputs=[broken], step_index=1))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT, reason_of(refused.value)
    assert len({call.result().outputs[0].data for call in calls}) == 1
    for name, array in caller.state(session).items():
        assert np.array_equal(array, before[name])
    assert np.array_equal(caller.step(session, at("lstm", 1), 1), caller.infer("lstm", INPUTS["lstm"][:2])["y"][1:])


def test_a_step_that_is_sent_twice_at_once_is_applied_once(caller: Caller) -> None:
    session = caller.create("lstm")
    for t in range(30):
        message = pb.StepRequest(session_id=session, inputs=[pack("x", at("lstm", t))], step_index=t)
        replies = [call.result() for call in [caller.stub.Step.future(message) for _ in range(3)]]
        assert replies[0] == replies[1] == replies[2]
        assert caller.index(session) == t + 1


def test_steps_of_all_kinds_at_once_give_what_the_model_gives_alone(server: Server) -> None:
    """Rows, repeats, several time steps, messages of several sessions, calls given up, forks and resets, from eight threads."""
    whole = Caller(server.address).infer("lstm", INPUTS["lstm"])["y"]

    def life(seed: int) -> int:
        rng, c = np.random.default_rng(seed), Caller(server.address)
        sessions = {c.create("lstm"): 0 for _ in range(3)}
        again: set[str] = set()  # whose last step was a single one and said its index
        steps = 0
        for _ in range(60):
            session = str(rng.choice(list(sessions)))
            t, kind = sessions[session], rng.integers(0, 8)
            if t > 30 or kind == 0:
                c.stub.ResetSession(pb.ResetSessionRequest(session_id=session))
                sessions[session] = 0
                again.discard(session)
            elif kind == 1 and session in again:  # a retry
                assert np.array_equal(c.step(session, at("lstm", t - 1), t - 1), whole[t - 1 : t])
            elif kind == 2:
                assert np.array_equal(c.step(session, INPUTS["lstm"][t : t + 3], t), whole[t : t + 3])
                sessions[session] = t + 3
                again.discard(session)
            elif kind == 3:  # all of them in one message
                x = np.concatenate([at("lstm", index) for index in sessions.values()], 1)
                message = pb.StreamStepsRequest(session_ids=list(sessions), inputs=[pack("x", x)])
                (reply,) = c.stream([message])
                want = np.concatenate([whole[index : index + 1] for index in sessions.values()], 1)
                assert np.array_equal(unpack(reply.outputs[0]), want)
                sessions = {name: index + 1 for name, index in sessions.items()}
                again.clear()
            elif kind == 4:  # given up at once: it was applied, or it was not
                call = c.stub.Step.future(pb.StepRequest(session_id=session, inputs=[pack("x", at("lstm", t))], step_index=t))
                call.cancel()
                c.stub.ListModels(pb.ListModelsRequest())
                sessions[session] = c.index(session)
                assert sessions[session] in (t, t + 1)
                again.discard(session)
            elif kind == 5:
                fork = c.stub.ForkSession(pb.ForkSessionRequest(session_id=session)).sessions[0].session_id
                assert np.array_equal(c.step(fork, at("lstm", t), t), whole[t : t + 1])
            else:
                assert np.array_equal(c.step(session, at("lstm", t), t if kind == 6 else None), whole[t : t + 1])
                sessions[session] = t + 1
                again = again | {session} if kind == 6 else again - {session}
            steps += 1
        return steps

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(life, range(8))) == 480
