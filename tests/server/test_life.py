"""Start, health, reflection and a clean stop."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from statecell.tensor import pack, unpack
from statecell.v1 import inference_pb2 as pb

from tests.conftest import LIMIT, Serve, Server
from tests.server.caller import Caller, info_of, reason_of


def test_health_knows_the_server_the_service_and_each_model(caller: Caller) -> None:
    stub = health_pb2_grpc.HealthStub(caller.channel)
    for name in ("", "statecell.v1.InferenceService", "lstm", "gru"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as error:
        stub.Check(health_pb2.HealthCheckRequest(service="lstn"))
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_service(caller: Caller) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(caller.channel)
    (reply,) = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    names = {service.name for service in reply.list_services_response.service}
    assert {"statecell.v1.InferenceService", "grpc.health.v1.Health"} <= names


def test_models_tell_their_spec_digest_and_runtime(caller: Caller) -> None:
    model = caller.stub.GetModel(pb.GetModelRequest(name="lstm")).model
    assert [(t.name, t.dtype, list(t.shape)) for t in model.spec.inputs] == [("x", "float32", ["seq_len", "batch", "10"])]
    assert [(s.input, s.output, list(s.shape)) for s in model.spec.states] == [
        ("h_0", "h_n", ["2", "batch", "20"]),
        ("c_0", "c_n", ["2", "batch", "20"]),
    ]
    assert (model.version, model.runtime, model.device, model.batch_invariant) == ("1", "onnxruntime", "cpu", True)
    assert len(model.digest) == 64


def test_sigterm_finishes_what_is_in_flight_and_exits_with_0(serve: Serve) -> None:
    x = np.random.default_rng(1).standard_normal((30_000, 1, 10), dtype=np.float32)
    with serve() as server:
        caller = Caller(server.address)
        expected = caller.infer("lstm", x)["y"]
        session = caller.create("lstm")
        unary = caller.stub.Step.future(pb.StepRequest(session_id=session, inputs=[pack("x", x)]))
        streaming, other = caller.create("lstm"), []
        begun = threading.Event()

        def messages() -> Iterator[pb.StreamStepsRequest]:
            yield pb.StreamStepsRequest(session_ids=[streaming], inputs=[pack("x", x)])
            begun.set()
            threading.Event().wait(20)  # the client keeps its side open

        stream = caller.stub.StreamSteps(messages())
        begun.wait(10)
        other.append(caller.stub.ListSessions(pb.ListSessionsRequest()))
        assert server.stop() == 0
        assert np.array_equal(unpack(unary.result().outputs[0]), expected)
        assert np.array_equal(unpack(next(stream).outputs[0]), expected)
        with pytest.raises(grpc.RpcError) as error:
            next(stream)
        assert (error.value.code(), reason_of(error.value)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert info_of(error.value).metadata["answered"] == "1"
        caller.channel.close()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--models", "nowhere"], "nowhere is not a folder"),
        (["--port", "70000"], "--port is 70000"),
        (["--state-memory", "plenty"], "--state-memory is 'plenty', expected a size such as 512MiB"),
        (["--max-batch", "0"], "--max-batch is 0"),
        (["--store", "localhost:6379"], "--store is 'localhost:6379', expected memory or valkey://host:port/db"),
        (["--store", "valkey://localhost:port/0"], "--store is 'valkey://localhost:port/0'"),
        (["--durability", "sometimes"], "--durability is 'sometimes', expected every_step or every=N"),
        (["--durability", "every=0"], "--durability is 'every=0', expected every_step or every=N"),
        (["--log-level", "verbose"], "--log-level is 'verbose', expected DEBUG, INFO, WARNING or ERROR"),
    ],
)
def test_a_bad_option_is_named_and_ends_with_2(models: Path, flags: list[str], says: str) -> None:
    command = [sys.executable, "-m", "statecell_server", "--models", str(models), "--port", "0", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert ended.returncode == 2
    assert says in " ".join(ended.stderr.replace("│", " ").split())
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--port", "TAKEN"], "--port TAKEN is taken: another program listens at 127.0.0.1:TAKEN"),
        (["--port", "TAKEN", "--front", "grpcio"], "--port TAKEN is taken: another program listens at 127.0.0.1:TAKEN"),
        (["--host", "203.0.113.7"], "--host 203.0.113.7 is not an address of this machine"),
        (["--host", "no such host"], "--host is 'no such host', which is no address and no known name"),
    ],
)
def test_where_it_cannot_listen_is_said_before_models_are_loaded(
    server: Server, tmp_path: Path, flags: list[str], says: str
) -> None:
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "model.onnx").write_bytes(b"not a model")  # nothing is said of it
    port = server.address.split(":")[1]
    command = [sys.executable, "-m", "statecell_server", "--models", str(tmp_path), *(f.replace("TAKEN", port) for f in flags)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"statecell-server: {says.replace('TAKEN', port)}")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("content", [b"not a model", b""])
def test_a_file_that_is_no_model_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "model.onnx").write_bytes(content)
    command = [sys.executable, "-m", "statecell_server", "--models", str(tmp_path), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert ended.returncode == 2
    assert "broken/1/model.onnx" in ended.stderr
    assert "Traceback" not in ended.stderr
