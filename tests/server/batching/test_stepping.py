"""Stepping a session is running the model: to the bit, whoever else is stepping."""

import threading

import numpy as np
import pytest
import torch
from statecell.tensor import pack, unpack
from statecell.v1 import inference_pb2 as pb

from tests.modules import modules
from tests.server.caller import Caller


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("model", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("batch", [1, 3])
def test_steps_equal_one_run_to_the_bit_and_pytorch_closely(caller: Caller, model: str, batch: int) -> None:
    x = rand(33, batch, 10)
    whole = caller.infer(model, x)
    stepped, ran = caller.create(model, batch), caller.create(model, batch)
    steps = np.concatenate([caller.step(stepped, x[t : t + 1], t) for t in range(33)])
    run = caller.step(ran, x, 0)
    assert np.array_equal(steps, run)
    assert np.array_equal(steps, whole["y"])
    for name, array in caller.state(stepped).items():
        assert np.array_equal(array, caller.state(ran)[name])
        assert np.array_equal(array, whole[name.replace("_0", "_n")])
    with torch.no_grad():
        expected, _ = modules()[model][0](torch.from_numpy(x))
    np.testing.assert_allclose(steps, expected.numpy(), atol=1e-6)


def test_cell_steps_equal_the_classic_loop(caller: Caller) -> None:
    x = rand(4, 3, 10)
    cell = modules()["lstm_cell"][0]
    session = caller.create("lstm_cell", 3)
    hx, cx = torch.zeros(3, 20), torch.zeros(3, 20)
    for t in range(4):
        with torch.no_grad():
            hx, cx = cell(torch.from_numpy(x[t]), (hx, cx))
        np.testing.assert_allclose(caller.step(session, x[t], t), hx.numpy(), atol=1e-6)
    np.testing.assert_allclose(caller.state(session)["c_0"], cx.numpy(), atol=1e-6)


def test_a_long_request_that_is_cut_into_runs_equals_its_steps(caller: Caller) -> None:
    x = rand(100, 1, 10)
    long, stepped = caller.create("lstm"), caller.create("lstm")
    assert np.array_equal(caller.step(long, x, 0), np.concatenate([caller.step(stepped, x[t : t + 1]) for t in range(100)]))


def test_batch_first_models_take_their_own_layout(caller: Caller) -> None:
    x = rand(2, 50, 10)
    session = caller.create("batch_first", 2)
    parts = [caller.step(session, x[:, :1], 0), caller.step(session, x[:, 1:40], 1), caller.step(session, x[:, 40:], 40)]
    assert np.array_equal(np.concatenate(parts, 1), caller.infer("batch_first", x)["y"])


def test_a_model_with_tokens_in_and_logits_out(caller: Caller) -> None:
    x = np.arange(20).reshape(1, 20) % 11
    session = caller.create("tagger")
    logits = np.concatenate([caller.step(session, x[:, t : t + 1], t) for t in range(20)], 1)
    assert np.array_equal(logits, caller.infer("tagger", x)["y"])
    with torch.no_grad():
        np.testing.assert_allclose(logits, modules()["tagger"][0](torch.from_numpy(x)).numpy(), atol=1e-6)


def test_a_given_state_is_where_the_session_starts(caller: Caller) -> None:
    x, h, c = rand(5, 2, 10), rand(2, 2, 20), rand(2, 2, 20) * 2
    session = caller.create("lstm", 2, h_0=h, c_0=c)
    assert np.array_equal(caller.state(session)["c_0"], c)
    assert np.array_equal(caller.step(session, x), caller.infer("lstm", x, h_0=h, c_0=c)["y"])


def test_two_interleaved_sessions_never_mix(caller: Caller) -> None:
    x, z = rand(10, 1, 10), -rand(10, 1, 10)
    a, b = caller.create("lstm"), caller.create("lstm")
    ya, yb = [], []
    for t in range(10):
        ya.append(caller.step(a, x[t : t + 1], t))
        yb.append(caller.step(b, z[t : t + 1], t))
    assert np.array_equal(np.concatenate(ya), caller.infer("lstm", x)["y"])
    assert np.array_equal(np.concatenate(yb), caller.infer("lstm", z)["y"])


@pytest.mark.parametrize("model", ["lstm", "rnn"])
def test_a_session_among_64_others_is_bit_identical_to_itself_alone(caller: Caller, model: str) -> None:
    x = rand(20, 65, 10)
    alone = caller.infer(model, x[:, :1])["y"]
    sessions = [caller.create(model) for _ in range(65)]
    results: list[list[np.ndarray]] = [[] for _ in sessions]

    def client(i: int) -> None:
        messages = [
            pb.StreamStepsRequest(
                id=t, session_ids=[sessions[i]], inputs=[pack("x", x[t : t + 1, i : i + 1])], step_indexes=[t]
            )
            for t in range(20)
        ]
        results[i] = [unpack(reply.outputs[0]) for reply in caller.stream(messages)]

    threads = [threading.Thread(target=client, args=(i,)) for i in range(65)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(np.concatenate(results[0]), alone)
    for i in (1, 31, 64):
        assert np.array_equal(np.concatenate(results[i]), caller.infer(model, x[:, i : i + 1])["y"])


def test_steps_that_wait_together_run_as_one_batch(caller: Caller) -> None:
    """One message of 64 sessions costs nowhere near 64 runs; its rows equal the sessions' own."""
    x = rand(3, 64, 10)
    sessions = [caller.create("lstm") for _ in range(64)]
    message = pb.StreamStepsRequest(id=9, session_ids=sessions, inputs=[pack("x", x)], step_indexes=[0] * 64)
    (reply,) = caller.stream([message])
    assert list(reply.session_ids) == sessions
    assert list(reply.step_indexes) == [3] * 64
    assert np.array_equal(unpack(reply.outputs[0]), caller.infer("lstm", x)["y"])


def test_sessions_of_different_batch_share_a_message(caller: Caller) -> None:
    x = rand(2, 6, 10)
    sessions = [caller.create("lstm", batch) for batch in (1, 3, 2)]
    (reply,) = caller.stream([pb.StreamStepsRequest(session_ids=sessions, inputs=[pack("x", x)])])
    assert np.array_equal(unpack(reply.outputs[0]), caller.infer("lstm", x)["y"])
    assert caller.state(sessions[1])["h_0"].shape == (2, 3, 20)


def test_a_session_named_twice_takes_two_steps_in_order(caller: Caller) -> None:
    x = rand(2, 1, 10)
    session = caller.create("lstm")
    stacked = np.concatenate([x[:1], x[1:]], 1)
    message = pb.StreamStepsRequest(session_ids=[session, session], inputs=[pack("x", stacked)], step_indexes=[0, 1])
    (reply,) = caller.stream([message])
    assert np.array_equal(unpack(reply.outputs[0]).reshape(2, 1, 20), caller.infer("lstm", x)["y"])
    assert list(reply.step_indexes) == [1, 2]


def test_infer_runs_a_bidirectional_model_of_any_length(caller: Caller) -> None:
    x = rand(70, 2, 10)
    with torch.no_grad():
        expected, (h, _) = modules()["bidirectional"][0](torch.from_numpy(x))
    got = caller.infer("bidirectional", x)
    np.testing.assert_allclose(got["y"], expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(got["h_n"], h.numpy(), atol=1e-6)
