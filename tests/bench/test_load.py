"""Both load programs against real servers."""

import grpc
import pytest
from statecell.v1 import inference_pb2 as pb
from statecell.v1 import inference_pb2_grpc

from bench.load import Load, measure, observe
from bench.messages import STEP, STREAM, sessions, streamed, unary, x
from bench.process import ProcessError, Server
from bench.serving import OURS, Traffic
from bench.setup import Setup

MODEL, INPUT_SIZE, HIDDEN_SIZE = "lstm", 10, 20


def step_index(server: Server, session_id: str) -> int:
    with grpc.insecure_channel(server.address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        return int(stub.GetState(pb.GetStateRequest(session_id=session_id)).snapshot.step_index)


@pytest.mark.parametrize("traffic", OURS, ids=lambda traffic: traffic.label)
def test_every_traffic_advances_all_its_sessions_alike(traffic: Traffic, statecell: Server, setup: Setup) -> None:
    with sessions(statecell.address, MODEL, traffic.sessions) as ids:
        values = measure(traffic.load(ids, INPUT_SIZE), statecell, setup)
        reached = {step_index(statecell, session_id) for session_id in (ids[0], ids[-1])}
    least = values["steps_s"] * setup.seconds / traffic.sessions / 2
    assert all(index % traffic.seq_len == 0 and index >= least > 0 for index in reached)
    assert 0 < values["p50_us"] <= values["p90_us"] <= values["p99_us"]
    assert 0 < values["server_busy"] < 1.1


def test_one_caller_is_not_faster_than_its_latency_allows(echo: Server, setup: Setup) -> None:
    inputs = x(1, 1, INPUT_SIZE)
    values = measure(Load(STREAM, [streamed(["a"], inputs)], 1, inputs.nbytes), echo, setup)
    assert 0 < values["steps_s"] * values["p50_us"] / 1e6 < 1.5


def test_unknown_sessions_are_failures_and_not_steps(statecell: Server, setup: Setup) -> None:
    inputs = x(1, 1, INPUT_SIZE)
    load = Load(STREAM, [streamed(["nobody"], inputs)], 1, reply_bytes=1000)
    assert observe(load, statecell, setup)["failures"] > 0
    with pytest.raises(ProcessError, match="failure"):
        measure(load, statecell, setup)


def test_refused_unary_call_says_why(statecell: Server, setup: Setup) -> None:
    load = Load(STEP, [unary("nobody", x(1, 1, INPUT_SIZE))], 1, reply_bytes=0)
    with pytest.raises(ProcessError, match="there is no session 'nobody'"):
        measure(load, statecell, setup)


def test_idle_streams_take_one_step_and_stay_open(statecell: Server, setup: Setup) -> None:
    inputs = x(1, 1, INPUT_SIZE)
    with sessions(statecell.address, MODEL, 5) as ids:
        load = Load(STREAM, [streamed([i], inputs) for i in ids], 1, 4 * HIDDEN_SIZE, active=2)
        values = observe(load, statecell, setup)
        reached = [step_index(statecell, session_id) for session_id in ids]
    assert (values["failures"], values["unopened"]) == (0, 0)
    assert min(reached[:2]) > 1
    assert reached[2:] == [1, 1, 1]
