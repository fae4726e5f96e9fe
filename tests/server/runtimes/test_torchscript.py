"""Models that run in TorchScript have the same sessions."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from statecell.tensor import pack, unpack
from statecell.v1 import inference_pb2 as pb

from tests.conftest import Serve
from tests.modules import modules
from tests.server.caller import Caller

X = np.random.default_rng(11).standard_normal((40, 3, 10), dtype=np.float32)


@pytest.fixture(scope="module")
def only_script(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which "lstm" has no model.onnx, as a model that only TorchScript can express."""
    copy = tmp_path_factory.mktemp("script") / "models"
    shutil.copytree(models, copy)
    (copy / "lstm" / "1" / "model.onnx").unlink()
    return copy


def test_a_model_without_onnx_is_served_by_torchscript_and_steps_as_pytorch_does(serve: Serve, only_script: Path) -> None:
    with serve(models=only_script) as server:
        caller = Caller(server.address)
        model = caller.stub.GetModel(pb.GetModelRequest(name="lstm")).model
        assert (model.runtime, model.device) == ("torchscript", "cpu")
        assert caller.stub.GetModel(pb.GetModelRequest(name="gru")).model.runtime == "onnxruntime"
        session = caller.create("lstm", 3)
        steps = np.concatenate([caller.step(session, X[t : t + 1], t) for t in range(40)])
        with torch.no_grad():
            expected, (h, _) = modules()["lstm"][0](torch.from_numpy(X))
        np.testing.assert_allclose(steps, expected.numpy(), atol=2e-6)
        np.testing.assert_allclose(caller.state(session)["h_0"], h.numpy(), atol=2e-6)
        caller.channel.close()


def test_where_neighbours_would_change_a_result_everybody_runs_alone_and_getmodel_says_so(serve: Serve) -> None:
    with serve("--runtime", "lstm=torchscript", "--runtime", "gru=torchscript") as server:
        caller = Caller(server.address)
        for name in ("lstm", "gru"):
            model = caller.stub.GetModel(pb.GetModelRequest(name=name)).model
            assert model.runtime == "torchscript"
            assert model.batch_invariant or "runs alone" in model.note
            alone = caller.create(name)
            expected = caller.step(alone, X[:1, :1], 0)
            sessions = [caller.create(name) for _ in range(3)]
            message = pb.StreamStepsRequest(session_ids=sessions, inputs=[pack("x", X[:1])], step_indexes=[0] * 3)
            (reply,) = caller.stream([message])
            assert np.array_equal(unpack(reply.outputs[0])[:, :1], expected)
        caller.channel.close()


def test_a_runtime_or_model_that_there_is_not_is_named(serve: Serve) -> None:
    for flag in ("lstm=tensorflow", "nobody=torchscript", "lstm"):
        with pytest.raises(AssertionError, match="the server said ''"), serve("--runtime", flag):
            pass
