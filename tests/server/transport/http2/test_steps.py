"""The whole server: what becomes of sessions when calls are cut, connections lost and clients behave badly."""

import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.events
import numpy as np
import pytest
import statecell_export
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hyperframe.frame import RstStreamFrame
from statecell.tensor import Array, pack, unpack
from statecell.v1 import inference_pb2 as pb

from tests.conftest import Serve, Server
from tests.server.caller import Caller, reason_of
from tests.server.transport.http2.conftest import settle
from tests.server.transport.http2.raw import PATIENCE, Raw, heads, message

STEP = "/statecell.v1.InferenceService/Step"
STREAM = "/statecell.v1.InferenceService/StreamSteps"


def rand(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def step(session: str, x: Array, step_index: int | None = None) -> bytes:
    return pb.StepRequest(session_id=session, inputs=[pack("x", x)], step_index=step_index).SerializeToString()


def streamed(session: str, x: Array) -> bytes:
    return pb.StreamStepsRequest(session_ids=[session], inputs=[pack("x", x)]).SerializeToString()


@pytest.fixture(scope="module")
def slow_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose steps take long enough to be cut, and a small one."""
    out = tmp_path_factory.mktemp("slow")
    for name, size in (("slow", 768), ("lstm", 20)):
        statecell_export.export(torch.nn.LSTM(10, size).eval(), (torch.zeros(2, 2, 10),), name=name, out=out)
    return out


@pytest.fixture(params=["uvloop", "asyncio"], scope="module")
def server(
    request: pytest.FixtureRequest, serve: Serve, slow_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """On either event loop."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "asyncio":
            hidden = tmp_path_factory.mktemp("without")
            (hidden / "uvloop.py").write_text("raise ImportError('as if it were not installed')\n")
            patch.setenv("PYTHONPATH", os.pathsep.join([str(hidden), os.environ.get("PYTHONPATH", "")]))
        with serve("--log-level", "WARNING", models=slow_models) as running:
            yield running


LONG = rand(20_000, 1, 10)
"""Takes the slow model seconds: time enough to cut it."""


def first_step(caller: Caller, session: str, x: Array) -> Array:
    """When the server has heard that the one before was given up."""
    found = []

    def stepped() -> bool:
        try:
            found.append(caller.step(session, x, 0))
        except grpc.RpcError as error:
            if reason_of(error) != "STEP_OUT_OF_ORDER":
                raise
        return bool(found)

    settle(stepped)
    return found[0]


@pytest.mark.parametrize("path", [STEP, STREAM])
def test_a_reset_leaves_the_state_as_it_was_and_the_session_free(caller: Caller, server: Server, path: str) -> None:
    session, x = caller.create("slow"), rand(5, 1, 10)
    with Raw(server.address) as raw:
        request = (step if path == STEP else streamed)(session, LONG)
        stream = raw.call(path, request)
        raw.ping()
        raw.send(RstStreamFrame(stream, 8))
        raw.ping()
        assert not raw.answers[stream].over, "it was answered before it was cut"
    assert np.array_equal(first_step(caller, session, x), caller.infer("slow", x)["y"])


@pytest.mark.parametrize("path", [STEP, STREAM])
def test_a_lost_connection_leaves_the_state_as_it_was(caller: Caller, server: Server, path: str) -> None:
    x = rand(5, 1, 10)
    sessions = [caller.create("slow") for _ in range(5)]
    with Raw(server.address) as raw:
        for session in sessions:
            raw.call(path, (step if path == STEP else streamed)(session, LONG))
        raw.ping()
        assert not any(answer.over for answer in raw.answers.values())
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # and so a reset
    for session in sessions:
        assert np.array_equal(first_step(caller, session, x), caller.infer("slow", x)["y"])


def test_a_deadline_leaves_the_state_as_it_was(caller: Caller, server: Server) -> None:
    session, x = caller.create("slow"), rand(5, 1, 10)
    request = pb.StepRequest(session_id=session, inputs=[pack("x", LONG)])
    with pytest.raises(grpc.RpcError) as error:
        caller.stub.Step(request, timeout=0.1)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    with Raw(server.address) as raw:  # a client that leaves it to the server
        other = caller.create("slow")
        answer = raw.ask(STEP, step(other, LONG), more={"grpc-timeout": "100m"})
        assert answer.status == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        assert np.array_equal(first_step(caller, other, x), caller.infer("slow", x)["y"])
    assert np.array_equal(first_step(caller, session, x), caller.infer("slow", x)["y"])


def test_rich_errors_arrive(caller: Caller) -> None:
    with pytest.raises(grpc.RpcError) as error:
        caller.step("nöbödy 木", rand(1, 1, 10))
    assert (error.value.code(), reason_of(error.value)) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
    assert "nöbödy 木" in str(error.value.details())


def test_health_is_watched(caller: Caller) -> None:
    stub = health_pb2_grpc.HealthStub(caller.channel)
    watches = [stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", "lstm", "nothing")]
    status = health_pb2.HealthCheckResponse
    assert [next(watch).status for watch in watches] == [status.SERVING, status.SERVING, status.SERVICE_UNKNOWN]
    for watch in watches:
        watch.cancel()
    assert stub.Check(health_pb2.HealthCheckRequest(service="")).status == status.SERVING


def test_reflection_answers_question_after_question(caller: Caller) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(caller.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="statecell.v1.InferenceService"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.Such"),
    ]
    services, file, nothing = stub.ServerReflectionInfo(iter(asked))
    assert {s.name for s in services.list_services_response.service} >= {"statecell.v1.InferenceService"}
    assert file.file_descriptor_response.file_descriptor_proto
    assert nothing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_steps_may_be_compressed(caller: Caller, compression: grpc.Compression) -> None:
    session, x = caller.create("lstm"), rand(50, 1, 10)
    request = pb.StepRequest(session_id=session, inputs=[pack("x", x)])
    y = unpack(caller.stub.Step(request, compression=compression).outputs[0])
    assert np.array_equal(y, caller.infer("lstm", x)["y"])


def test_a_strict_client_finds_nothing_wrong(caller: Caller, server: Server) -> None:
    """h2 checks every frame and header that it gets."""
    host, port = server.address.split(":")
    session, x = caller.create("lstm"), rand(400, 1, 10)
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connected:
        connection.initiate_connection()
        for t in range(4):
            stream = connection.get_next_available_stream_id()
            connection.send_headers(stream, [(":authority", server.address), *heads(STEP)])
            body = message(step(session, x[100 * t : 100 * t + 100], 100 * t))
            for at in range(0, len(body), 1000):
                connection.send_data(stream, body[at : at + 1000], end_stream=at + 1000 >= len(body), pad_length=at % 7)
        data: dict[int, bytes] = {}
        ended = 0
        while ended < 4:
            connected.sendall(connection.data_to_send())
            for event in connection.receive_data(connected.recv(1 << 16)):
                if isinstance(event, h2.events.DataReceived):
                    data[event.stream_id] = data.get(event.stream_id, b"") + event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                ended += isinstance(event, h2.events.StreamEnded)
        parts = [unpack(pb.StepResponse.FromString(data[s][5:]).outputs[0]) for s in sorted(data)]
    assert np.array_equal(np.concatenate(parts), caller.infer("lstm", x)["y"])


def test_a_thousand_connections_at_once_are_all_served(caller: Caller, server: Server) -> None:
    sessions = [caller.create("lstm") for _ in range(10)]
    x = rand(1, 1, 10)
    raws = [Raw(server.address) for _ in range(1000)]
    for i, raw in enumerate(raws):
        raw.call(STEP, step(sessions[i % 10], x) if i < 10 else pb.ListModelsRequest().SerializeToString())
    assert {raw.answer(1).over for raw in raws} == {True}
    for raw in raws[:10]:
        y = unpack(pb.StepResponse.FromString(raw.answer(1).messages[0]).outputs[0])
        assert np.array_equal(y, caller.infer("lstm", x)["y"])
    for raw in raws:
        raw.socket.close()


def test_ten_thousand_streams_in_a_burst_are_all_answered(caller: Caller, server: Server) -> None:
    session, x = caller.create("lstm"), rand(1, 1, 10)
    caller.step(session, x)
    unknown = pb.StreamStepsRequest(session_ids=["nobody"], inputs=[pack("x", x)]).SerializeToString()
    raws = [Raw(server.address) for _ in range(4)]
    for raw in raws:
        raw.send(*(frame for _ in range(2500) for frame in (raw.headers(STREAM), raw.data(message(unknown), end=True))))
    for raw in raws:
        for i in range(2500):
            answer = raw.answer(2 * i + 1)
            assert answer.status == 0
            assert pb.StreamStepsResponse.FromString(answer.messages[0]).errors[0].reason == "SESSION_NOT_FOUND"
        raw.socket.close()
    assert caller.index(session) == 1


def stalled(address: str) -> Raw:
    """Has asked for far more than it reads."""
    raw = Raw(address)
    raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(3000):
        raw.call("/statecell.v1.InferenceService/ListModels", b"")
    return raw


def talking(address: str) -> Raw:
    """Keeps its calls open."""
    raw = Raw(address)
    for _ in range(100):
        raw.call(STREAM, end=False)
    return raw


def silent(address: str) -> Raw:
    return Raw(address, greet=False)


@pytest.mark.parametrize("client", [stalled, talking, silent, Raw])
def test_no_client_keeps_the_server_from_its_end(serve: Serve, client: Callable[[str], Raw]) -> None:
    with serve("--drain-seconds", "2") as server, client(server.address):
        caller = Caller(server.address)
        session = caller.create("lstm")
        unary = caller.stub.Step.future(pb.StepRequest(session_id=session, inputs=[pack("x", rand(1000, 1, 10))]))
        settle(lambda: unary.running() or unary.done())
        caller.index(session)
        assert server.stop() == 0
        assert unpack(unary.result().outputs[0]).shape == (1000, 1, 20)
        caller.channel.close()


def test_a_mob_of_clients_changes_nothing_for_one_that_behaves(caller: Caller, server: Server) -> None:
    """Each breaks off, resets, sends nonsense; the session steps on to the bit."""
    x = rand(300, 1, 10)
    expected = caller.infer("lstm", x)["y"]
    session = caller.create("lstm")
    over = threading.Event()

    def misbehave(seed: int) -> None:
        chance = random.Random(seed)
        while not over.is_set():
            with Raw(server.address) as raw:
                try:
                    for _ in range(chance.randrange(20)):
                        raw.call(chance.choice([STEP, STREAM, "/x"]), chance.randbytes(30), end=chance.random() < 0.5)
                        if chance.random() < 0.5:
                            raw.send(RstStreamFrame(raw.stream, 8))
                    raw.send(chance.randbytes(chance.randrange(50)))
                    raw.socket.shutdown(socket.SHUT_WR)
                    raw.ending()
                except OSError:
                    continue  # it was shown the door

    mob = [threading.Thread(target=misbehave, args=(seed,)) for seed in range(3)]
    for thread in mob:
        thread.start()
    steps = [caller.step(session, x[t : t + 1], t) for t in range(300)]
    over.set()
    for thread in mob:
        thread.join()
    assert np.array_equal(np.concatenate(steps), expected)
