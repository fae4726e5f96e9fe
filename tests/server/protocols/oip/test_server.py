"""What the Open Inference Protocol says of the server and its models; taking models in and out; health and reflection."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from statecell.oip import inference_pb2 as pb
from statecell.oip import model_config_pb2 as config_pb

from tests.conftest import Serve, Server
from tests.server.caller import reason_of
from tests.server.oip_caller import OipCaller

X = np.zeros((1, 1, 10), np.float32)
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def oip(server: Server) -> Iterator[OipCaller]:
    caller = OipCaller(server.address)
    yield caller
    caller.channel.close()


def health(oip: OipCaller, name: str) -> int:
    stub = health_pb2_grpc.HealthStub(oip.channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(service=name)).status)


def test_the_server_is_live_and_ready_and_says_what_it_is(oip: OipCaller) -> None:
    assert oip.stub.ServerLive(pb.ServerLiveRequest()).live
    assert oip.stub.ServerReady(pb.ServerReadyRequest()).ready
    about = oip.stub.ServerMetadata(pb.ServerMetadataRequest())
    assert about.name == "statecell"
    assert "sequence(string_id)" in about.extensions


def test_a_model_that_is_there_is_ready_and_another_is_not(oip: OipCaller) -> None:
    ready = {
        (name, version): oip.stub.ModelReady(pb.ModelReadyRequest(name=name, version=version)).ready
        for name, version in (("lstm", ""), ("lstm", "1"), ("lstm", "2"), ("nothing", ""))
    }
    assert ready == {("lstm", ""): True, ("lstm", "1"): True, ("lstm", "2"): False, ("nothing", ""): False}


@pytest.mark.parametrize(
    ("model", "datatype", "x", "y"),
    [
        ("lstm", "FP32", [-1, -1, 10], [-1, -1, 20]),
        ("lstm_cell", "FP32", [-1, 10], [-1, 20]),
        ("tagger", "INT64", [-1, -1], [-1, -1, 5]),
    ],
)
def test_metadata_has_the_models_own_layout(oip: OipCaller, model: str, datatype: str, x: list[int], y: list[int]) -> None:
    about = oip.stub.ModelMetadata(pb.ModelMetadataRequest(name=model))
    assert (about.name, list(about.versions), about.platform) == (model, ["1"], "onnxruntime_onnx")
    assert [(t.datatype, list(t.shape)) for t in (*about.inputs, about.outputs[0])] == [(datatype, x), ("FP32", y)]
    config = oip.stub.ModelConfig(pb.ModelConfigRequest(name=model)).config
    assert config.max_batch_size == 0
    assert [config_pb.DataType.Name(t.data_type) for t in config.input] == [f"TYPE_{datatype}"]
    assert list(config.input[0].dims) == x


def test_the_configuration_tells_which_models_have_sequences(oip: OipCaller) -> None:
    config = {n: oip.stub.ModelConfig(pb.ModelConfigRequest(name=n)).config for n in ("lstm", "bidirectional")}
    states = [(s.input_name, s.output_name, list(s.dims)) for s in config["lstm"].sequence_batching.state]
    assert states == [("h_0", "h_n", [2, -1, 20]), ("c_0", "c_n", [2, -1, 20])]
    assert config["bidirectional"].WhichOneof("scheduling_choice") is None


def test_statistics_count_this_fronts_requests_and_the_models_runs(serve: Serve) -> None:
    with serve() as server:
        oip = OipCaller(server.address)
        for t in range(3):
            oip.infer("lstm", X, sequence_id=1, sequence_start=t == 0)
        oip.infer("lstm", np.repeat(X, 4, 1))
        with pytest.raises(grpc.RpcError):
            oip.infer("lstm", X[:, :, :5])
        (stats,) = oip.stub.ModelStatistics(pb.ModelStatisticsRequest(name="lstm")).model_stats
        everything = oip.stub.ModelStatistics(pb.ModelStatisticsRequest()).model_stats
    assert (stats.inference_count, stats.execution_count) == (7, 4)
    assert {b.batch_size: b.compute_infer.count for b in stats.batch_stats} == {1: 3, 4: 1}
    assert (stats.inference_stats.success.count, stats.inference_stats.fail.count) == (4, 1)
    parts = [getattr(stats.inference_stats, name) for name in ("queue", "compute_input", "compute_infer", "compute_output")]
    assert {part.count for part in parts} == {4}, "perf_analyzer insists on it"
    assert sum(part.ns for part in parts) == stats.inference_stats.success.ns > 0
    assert len(everything) > 5


def test_a_model_is_taken_out_and_in_again(serve: Serve, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "lstm", tmp_path / "lstm")
    shutil.copytree(models / "gru", tmp_path / "gru")
    with serve(models=tmp_path) as server:
        oip = OipCaller(server.address)

        def state() -> dict[str, str]:
            return {m.name: m.state for m in oip.stub.RepositoryIndex(pb.RepositoryIndexRequest()).models}

        oip.infer("gru", X, sequence_id=1, sequence_start=True)
        with pytest.raises(grpc.RpcError) as error:
            oip.stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="gru"))
        assert reason_of(error.value) == "MODEL_IN_USE"
        oip.infer("gru", X, sequence_id=1, sequence_end=True)
        oip.stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="gru"))
        assert state() == {"lstm": "READY", "gru": "UNAVAILABLE"}
        assert [m.name for m in oip.stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models] == ["lstm"]
        assert health(oip, "gru") != SERVING
        with pytest.raises(grpc.RpcError) as error:
            oip.infer("gru", X)
        assert reason_of(error.value) == "MODEL_NOT_FOUND"
        shutil.copytree(models / "rnn", tmp_path / "rnn")
        assert state() == {"lstm": "READY", "gru": "UNAVAILABLE", "rnn": "UNAVAILABLE"}
        for name in ("gru", "rnn"):
            oip.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name))
            assert oip.infer(name, X).shape == (1, 1, 20)
            assert health(oip, name) == SERVING
        assert state() == dict.fromkeys(("lstm", "gru", "rnn"), "READY")


def test_a_model_that_cannot_be_loaded_is_refused_with_the_reason(serve: Serve, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "lstm", tmp_path / "lstm")
    with serve(models=tmp_path) as server:
        oip = OipCaller(server.address)
        (tmp_path / "broken" / "1").mkdir(parents=True)
        (tmp_path / "broken" / "1" / "model.onnx").write_bytes(b"not a model")
        with pytest.raises(grpc.RpcError) as error:
            oip.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="broken"))
        assert reason_of(error.value) == "MODEL_REFUSED"
        (broken,) = [m for m in oip.stub.RepositoryIndex(pb.RepositoryIndexRequest()).models if m.name == "broken"]
        assert (broken.state, bool(broken.reason)) == ("UNAVAILABLE", True)
        for name in ("nothing", "../lstm"):
            with pytest.raises(grpc.RpcError) as error:
                oip.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name))
            assert reason_of(error.value) == "MODEL_NOT_FOUND"
        assert oip.infer("lstm", X).shape == (1, 1, 20)


def test_health_knows_both_services_and_every_model(oip: OipCaller) -> None:
    for name in ("", "inference.GRPCInferenceService", "statecell.v1.InferenceService", "lstm", "tagger"):
        assert health(oip, name) == SERVING
    with pytest.raises(grpc.RpcError) as error:
        health(oip, "nothing")
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_services_and_channelz_is_off(oip: OipCaller) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(oip.channel)
    (answer,) = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    assert {service.name for service in answer.list_services_response.service} == {
        "inference.GRPCInferenceService",
        "statecell.v1.InferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    channelz: Any = oip.channel.unary_unary("/grpc.channelz.v1.Channelz/GetServers")
    with pytest.raises(grpc.RpcError) as error:
        channelz(b"")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
