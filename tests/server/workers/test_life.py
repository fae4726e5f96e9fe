"""Workers die, are replaced, and stop together."""

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from statecell.tensor import pack
from statecell.v1 import inference_pb2 as pb

from tests.conftest import Serve, Server
from tests.server.caller import Caller, reason_of
from tests.server.oip_caller import OipCaller
from tests.server.workers.conftest import Crowd, children, code_of, until

X = np.ones((1, 1, 10), "float32")


@pytest.fixture
def pair(serve: Serve, lstm_only: Path) -> Iterator[Server]:
    """A server of two workers of a test's own."""
    with serve("--workers", "2", models=lstm_only) as running:
        yield running


def stepped(caller: Caller, session: str) -> str:
    """OK, or why not; a worker that is just gone is asked again."""
    while True:
        try:
            caller.step(session, X)
        except grpc.RpcError as error:
            if code_of(error) is grpc.StatusCode.UNAVAILABLE:
                time.sleep(0.05)
                continue
            return reason_of(error)
        return "OK"


def test_a_killed_worker_is_replaced_and_its_sessions_are_lost_and_no_others(pair: Server) -> None:
    workers = children(pair)
    assert len(workers) == 2
    for round_ in range(2):
        crowd = Crowd(pair.address)
        here, mine, there, theirs = crowd.pair()
        oip = OipCaller(pair.address)
        for number in range(8):
            oip.infer("lstm", X, sequence_id=f"{round_}-{number}", sequence_start=True)
        os.kill(workers[0], signal.SIGKILL)
        until(functools.partial(_replaced, pair, workers), "no other worker is started")
        told = sorted(stepped(caller, session) for caller, session in ((here, theirs), (there, mine)))
        assert told == ["OK", "SESSION_LOST"]
        sequences = []
        for number in range(8):
            until(functools.partial(_answers, pair.address, f"{round_}-{number}"), "the worker's place stays empty")
            try:
                oip.infer("lstm", X, sequence_id=f"{round_}-{number}")
                sequences.append("OK")
            except grpc.RpcError as error:
                sequences.append(reason_of(error))
        assert set(sequences) == {"OK", "SESSION_LOST"}
        crowd.close()
        workers = children(pair)
    assert pair.stop() == 0


def _replaced(server: Server, before: list[int]) -> bool:
    return len(set(children(server)) - set(before)) == 1


def _answers(address: str, name: str) -> bool:
    """Whether the worker of the sequence is there."""
    caller = OipCaller(address)
    try:
        caller.infer("lstm", X[:, :, :3], sequence_id=name)
    except grpc.RpcError as error:
        return code_of(error) is not grpc.StatusCode.UNAVAILABLE
    finally:
        caller.channel.close()
    return True


def test_no_worker_outlives_its_supervisor(pair: Server) -> None:
    workers = children(pair)
    pair.process.kill()
    pair.process.wait()
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers), "a worker is left")


def test_a_stop_under_load_fails_no_step(pair: Server) -> None:
    crowd = Crowd(pair.address)
    here, mine, there, theirs = crowd.pair()
    errors: list[grpc.RpcError] = []
    done: dict[str, int] = {}

    def load(caller: Caller, session: str) -> None:
        index = 0
        try:
            while True:
                caller.step(session, X, index)
                index += 1
                done[session] = index
        except grpc.RpcError as error:
            errors.append(error)

    threads = [threading.Thread(target=load, args=pair) for pair in ((here, mine), (there, theirs))]
    passed = [here.create("lstm"), there.create("lstm")]
    threads += [threading.Thread(target=load, args=(there, passed[0])), threading.Thread(target=load, args=(here, passed[1]))]
    for thread in threads:
        thread.start()
    time.sleep(1)
    assert pair.stop() == 0
    for thread in threads:
        thread.join()
    assert len(done) == 4
    assert min(done.values()) > 10
    # Calls that came after the end found nobody there; none that had begun broke off.
    assert {code_of(error) for error in errors} == {grpc.StatusCode.UNAVAILABLE}
    assert not [e for e in errors if "another worker" in str(e.details()) or "Socket closed" in str(e.details())]


def test_a_stream_answers_all_that_it_has_read_when_the_server_stops(pair: Server) -> None:
    here, mine, _, theirs = Crowd(pair.address).pair()
    stopping = threading.Event()

    def messages() -> Iterator[pb.StreamStepsRequest]:
        indexes = {mine: 0, theirs: 0}
        for number in range(100_000):
            ids = [[mine], [theirs], [theirs, mine]][number % 3]
            x = [pack("x", X.repeat(len(ids), 1))]
            yield pb.StreamStepsRequest(id=number, session_ids=ids, inputs=x, step_indexes=[indexes[i] for i in ids])
            for session in ids:
                indexes[session] += 1
            if number == 300:
                stopping.set()

    threading.Thread(target=lambda: (stopping.wait(), pair.stop())).start()
    answered = []
    ended = None
    try:
        for reply in here.stub.StreamSteps(messages()):
            assert not reply.errors
            answered.append(reply.id)
    except grpc.RpcError as error:
        ended = error
    assert ended is not None
    assert reason_of(ended) == "DRAINING"
    assert sorted(answered) == list(range(len(answered))), "the first so many, and no others"


def test_health_is_that_of_the_whole(pair: Server) -> None:
    for _ in range(6):
        with grpc.insecure_channel(pair.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for service in ("", "lstm", "statecell.v1.InferenceService"):
                assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--workers", "0"], "--workers is 0, expected auto or 1 to 256"),
        (["--workers", "many"], "expected auto or 1 to 256"),
        (["--workers", "2", "--http-port", "0", "--port", "1"], "--http-port"),
        (["--workers", "2", "--store", "memory"], "--store"),
        (["--workers", "2", "--front", "grpcio"], "--front"),
    ],
)
def test_what_does_not_go_with_workers_is_said(flags: list[str], said: str, lstm_only: Path) -> None:
    command = [sys.executable, "-m", "statecell_server", "--models", str(lstm_only), *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
