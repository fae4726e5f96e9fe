"""What clients and operators see of a model that cannot be served, beside one that can."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from statecell.oip import inference_pb2 as oip
from statecell.v1 import inference_pb2 as pb
from statecell_client import Client, ModelNotFound

from tests.conftest import Serve, Server
from tests.server import bad_models
from tests.server.caller import Caller
from tests.server.oip_caller import OipCaller


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "log"


@pytest.fixture(scope="module")
def server(serve: Serve, tmp_path_factory: pytest.TempPathFactory, log: Path) -> Iterator[Server]:
    """With the command's own defaults: models are tried."""
    folder = tmp_path_factory.mktemp("models")
    for name, content in (("good", bad_models.model()), ("aborting", bad_models.aborting()), ("cut", bad_models.model()[:90])):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.onnx").write_bytes(content)
    with log.open("w") as file, serve(models=folder, stderr=file) as running:
        yield running


def test_list_models_has_the_good_one_and_says_why_the_others_are_not_there(caller: Caller) -> None:
    reply = caller.stub.ListModels(pb.ListModelsRequest())
    assert [model.name for model in reply.models] == ["good"]
    reasons = {(missing.name, missing.version): missing.reason for missing in reply.unavailable}
    assert reasons.keys() == {("aborting", "1"), ("cut", "1")}
    assert "ended the process that tried it" in reasons["aborting", "1"]
    assert "cannot be loaded" in reasons["cut", "1"]


def test_the_repository_index_says_so_too(server: Server) -> None:
    stub = OipCaller(server.address).stub
    index = {model.name: model for model in stub.RepositoryIndex(oip.RepositoryIndexRequest()).models}
    assert {name: model.state for name, model in index.items()} == {
        "good": "READY",
        "aborting": "UNAVAILABLE",
        "cut": "UNAVAILABLE",
    }
    assert "cannot be loaded" in index["cut"].reason


def test_health_is_not_serving_for_the_bad_ones_alone(caller: Caller) -> None:
    stub = health_pb2_grpc.HealthStub(caller.channel)
    states = {name: stub.Check(health_pb2.HealthCheckRequest(service=name)).status for name in ("", "good", "aborting", "cut")}
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert states == {"": serving, "good": serving, "aborting": not_serving, "cut": not_serving}


def test_the_good_one_is_stepped(caller: Caller) -> None:
    session = caller.create("good")
    for index in range(3):
        np.testing.assert_array_equal(caller.step(session, np.ones((1, 4), np.float32), index), np.full((1, 4), index + 1.0))


def test_who_asks_for_a_bad_one_is_told_why_it_is_not_there(server: Server, caller: Caller) -> None:
    with pytest.raises(grpc.RpcError) as error:
        caller.create("cut")
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert "cut/1 is not served" in (error.value.details() or "")
    with Client(server.address) as client, pytest.raises(ModelNotFound, match="aborting/1 is not served"):
        client.model("aborting")


def test_the_log_has_a_line_for_each_and_no_traceback(server: Server, log: Path) -> None:
    lines = log.read_text().splitlines()
    for name in ("aborting", "cut"):
        assert sum(f"ERROR statecell_server.engine.repository: {name}/1 is not served" in line for line in lines) == 1
    assert not any("Traceback" in line for line in lines)
