"""ModelStreamInfer: many requests in flight, errors in-band; deadlines and cancellation on both kinds of call."""

import queue
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from statecell.oip import inference_pb2 as pb

from tests.conftest import Serve, Server
from tests.server.caller import Caller, reason_of
from tests.server.oip_caller import OipCaller, arrays, request

X = np.random.default_rng(7).standard_normal((8, 1, 10), dtype=np.float32)


@pytest.fixture
def oip(server: Server) -> Iterator[OipCaller]:
    caller = OipCaller(server.address)
    yield caller
    caller.channel.close()


def sequence(name: str, model: str = "lstm") -> list[pb.ModelInferRequest]:
    """X in steps of one."""
    return [
        request(
            model,
            {"x": X[t : t + 1]},
            request_id=f"{name}{t}",
            sequence_id=name,
            sequence_start=t == 0,
            sequence_end=t == len(X) - 1,
        )
        for t in range(len(X))
    ]


def test_steps_sent_ahead_are_applied_in_order_and_each_answer_is_final(oip: OipCaller) -> None:
    replies = oip.stream(sequence("ahead"))
    assert [reply.infer_response.id for reply in replies] == [f"ahead{t}" for t in range(8)]
    assert all(reply.infer_response.parameters["triton_final_response"].bool_param for reply in replies)
    steps = [arrays(reply.infer_response)["y"] for reply in replies]
    assert np.array_equal(np.concatenate(steps), oip.infer("lstm", X))


def test_rows_do_not_overtake_what_was_sent_before_them(oip: OipCaller) -> None:
    """Requests of two time steps and of one take different ways through the server."""
    for round_ in range(20):
        name = f"mixed{round_}"
        lengths = (1, 1, 2, 1, 2, 1)
        ends = np.cumsum(lengths)
        messages = [
            request("lstm", {"x": X[end - n : end]}, request_id=f"{end}", sequence_id=name, sequence_start=i == 0)
            for i, (end, n) in enumerate(zip(ends, lengths, strict=True))
        ]
        steps = [arrays(reply.infer_response)["y"] for reply in oip.stream(messages)]
        assert np.array_equal(np.concatenate(steps), oip.infer("lstm", X))


def test_one_stream_carries_sequences_of_several_models_and_stateless_calls(oip: OipCaller) -> None:
    many = [[*sequence("a", "lstm")], [*sequence("b", "gru")], [*sequence("c", "lstm")]]
    messages = [message for turn in zip(*many, strict=True) for message in turn]
    messages.insert(5, request("rnn", {"x": X}, request_id="whole"))
    replies = {reply.infer_response.id: arrays(reply.infer_response)["y"] for reply in oip.stream(messages)}
    for name, model in (("a", "lstm"), ("b", "gru"), ("c", "lstm")):
        assert np.array_equal(np.concatenate([replies[f"{name}{t}"] for t in range(8)]), oip.infer(model, X))
    assert np.array_equal(replies["whole"], oip.infer("rnn", X))


def test_a_sequence_may_start_again_right_behind_its_end(oip: OipCaller) -> None:
    replies = oip.stream([*sequence("again"), *sequence("again"), *sequence("again")])
    steps = [arrays(reply.infer_response)["y"] for reply in replies]
    assert np.array_equal(np.concatenate(steps), np.concatenate([oip.infer("lstm", X)] * 3))


def test_an_error_comes_in_band_and_the_stream_goes_on(oip: OipCaller) -> None:
    good = sequence("goes on")
    bad = [
        request("lstm", {"x": X[:1]}, request_id="unknown", sequence_id="nobody"),
        request("nothing", {"x": X[:1]}, request_id="no model"),
        request("lstm", {"x": X[:1] * np.float32("nan")}, request_id="nan", sequence_id="goes on"),
    ]
    replies = {reply.infer_response.id: reply for reply in oip.stream([*good[:4], *bad, *good[4:]])}
    errors = {name: reply.error_message for name, reply in replies.items() if reply.error_message}
    assert {name: text.split(":")[0] for name, text in errors.items()} == {
        "unknown": "SESSION_NOT_FOUND",
        "no model": "MODEL_NOT_FOUND",
        "nan": "NON_FINITE_INPUT",
    }
    assert replies["unknown"].infer_response.parameters["reason"].string_param == "SESSION_NOT_FOUND"
    steps = [arrays(replies[f"goes on{t}"].infer_response)["y"] for t in range(8)]
    assert np.array_equal(np.concatenate(steps), oip.infer("lstm", X))


def test_a_step_that_failed_in_the_run_does_not_stand_in_the_way_of_those_behind_it(oip: OipCaller) -> None:
    messages = [
        request("tagger", {"x": np.array([[token]])}, request_id=str(token), sequence_id="behind", sequence_start=token == 1)
        for token in (1, 99, 2)
    ]
    replies = {reply.infer_response.id: reply for reply in oip.stream(messages)}
    assert replies["99"].error_message.startswith("INPUT_REFUSED")
    last = arrays(replies["2"].infer_response)["y"]
    assert np.array_equal(last, oip.infer("tagger", np.array([[1, 2]]))[:, 1:])


def test_a_repeated_request_in_flight_is_answered_twice_and_applied_once(oip: OipCaller) -> None:
    messages = [message for message in sequence("twice") for _ in range(2)]
    replies = oip.stream(messages)
    assert len(replies) == 16
    whole = oip.infer("lstm", X)
    for reply in replies:
        at = int(reply.infer_response.id[-1])
        assert np.array_equal(arrays(reply.infer_response)["y"], whole[at : at + 1])


def test_a_call_that_runs_out_of_time_leaves_the_sequence_as_it_was(oip: OipCaller, caller: Caller) -> None:
    oip.infer("lstm", X[:2], sequence_id="late", sequence_start=True)
    long = np.zeros((200_000, 1, 10), np.float32)
    with pytest.raises(grpc.RpcError) as error:
        oip.stub.ModelInfer(request("lstm", {"x": long}, sequence_id="late"), timeout=0.1)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert caller.index("sequence/lstm/late") == 2
    assert np.array_equal(oip.infer("lstm", X[2:], sequence_id="late"), oip.infer("lstm", X)[2:])


def test_a_cancelled_stream_leaves_the_sequence_as_it_was(oip: OipCaller, caller: Caller) -> None:
    oip.infer("lstm", X[:2], sequence_id="gone", sequence_start=True)
    messages: queue.SimpleQueue[pb.ModelInferRequest] = queue.SimpleQueue()
    call = oip.stub.ModelStreamInfer(iter(messages.get, None))
    messages.put(request("lstm", {"x": X}, request_id="first"))
    assert next(call).infer_response.id == "first"
    messages.put(request("lstm", {"x": np.zeros((200_000, 1, 10), np.float32)}, sequence_id="gone"))
    call.cancel()
    assert caller.index("sequence/lstm/gone") == 2
    assert np.array_equal(oip.infer("lstm", X[2:], sequence_id="gone"), oip.infer("lstm", X)[2:])


def test_a_stream_is_told_that_the_server_stops(serve: Serve) -> None:
    with serve() as server:
        oip = OipCaller(server.address)
        messages: queue.SimpleQueue[pb.ModelInferRequest] = queue.SimpleQueue()
        call = oip.stub.ModelStreamInfer(iter(messages.get, None))
        messages.put(request("lstm", {"x": X}))
        assert not next(call).error_message
        assert server.stop() == 0
        with pytest.raises(grpc.RpcError) as error:
            next(call)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason_of(error.value) == "DRAINING"
