"""What is done where a model's results depend on the batch, or on the length of a run."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import statecell_export
import torch
from onnx import TensorProto, helper, numpy_helper
from statecell.spec import SPEC_KEY, ModelSpec, StateSpec, TensorSpec
from statecell.v1 import inference_pb2 as pb
from statecell_server.config import Config
from statecell_server.engine.engine import Engine
from statecell_server.engine.repository import Repository
from statecell_server.runtimes.invariance import decide, measure_variance
from statecell_server.runtimes.onnx import OnnxRuntime
from statecell_server.runtimes.onnx_device import DeviceRuntime
from statecell_server.runtimes.runtime import LoadError
from torch import nn

from tests.conftest import Serve
from tests.server.caller import Caller


@pytest.fixture(scope="module")
def varying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`rnn`: its batch matters, for its spec does not ask for the two rows that ONNX's RNN node needs. `half`: its state is
    rounded to 16 bits between runs only, so that the length of a run matters."""
    out = tmp_path_factory.mktemp("variance")
    torch.manual_seed(0)
    x = torch.randn(5, 3, 32)
    statecell_export.export(nn.RNN(32, 64).eval(), x, name="rnn", out=out)
    statecell_export.export(nn.LSTM(32, 16).eval(), x, name="half", out=out, form="float16")
    path = out / "rnn" / "1" / "model.onnx"
    model = onnx.load(path)
    (carried,) = [p for p in model.metadata_props if p.key == SPEC_KEY]
    carried.value = replace(ModelSpec.from_json(carried.value), min_batch=1).to_json()
    onnx.save(model, path)
    return out


@pytest.mark.parametrize("arena", ["host", "device"])
def test_each_policy_says_what_it_does(varying: Path, arena: str) -> None:
    found = {}
    for policy in ("auto", "alone", "pad", "share"):
        runner = Repository(Config(models=varying, state_arena=arena, batch_variance=policy, max_batch=24)).get("rnn")
        found[policy] = runner.sharing
        assert "a row's result differed by" in runner.note
    assert found["auto"] == found["alone"], "on the CPU a run of a row costs less than one of many"
    assert (found["alone"].max_batch, found["alone"].alone) == (1, True)
    assert found["alone"].variance
    assert (found["pad"].min_batch, found["pad"].max_batch, found["pad"].variance) == (24, 24, "")
    assert (found["share"].min_batch, found["share"].max_batch, found["share"].alone) == (1, 24, False)
    assert found["share"].variance, "GetModel must not call it invariant"


@pytest.mark.parametrize("arena", ["host", "device"])
@pytest.mark.parametrize("policy", ["alone", "pad"])
async def test_a_step_gives_the_same_bits_whoever_steps_beside_it(varying: Path, arena: str, policy: str) -> None:
    engine = Engine(Config(models=varying, state_arena=arena, batch_variance=policy, max_batch=16))
    await engine.start()
    x = np.random.default_rng(0).standard_normal((6, 8, 32)).astype(np.float32)
    alone = [(await engine.steps.infer("rnn", "", {"x": x[:, i : i + 1]}))["y"] for i in range(8)]
    ids = [(await engine.lifecycle.create("rnn")).id for _ in range(8)]
    for t in range(6):
        replies = await asyncio.gather(*(engine.steps.step(s, {"x": x[t : t + 1, i : i + 1]}, None) for i, s in enumerate(ids)))
        for i, (outputs, _) in enumerate(replies):
            assert np.array_equal(outputs["y"][0], alone[i][t])
    await engine.stop()


async def test_where_the_length_of_a_run_matters_every_run_is_of_one_step(varying: Path) -> None:
    engine = Engine(Config(models=varying))
    sharing = engine.models.get("half").sharing
    assert (sharing.run_length, sharing.max_batch, sharing.variance) == (1, 256, "")
    await engine.start()
    x = np.random.default_rng(0).standard_normal((50, 1, 32)).astype(np.float16)
    whole = (await engine.steps.infer("half", "", {"x": x}))["y"]
    session = (await engine.lifecycle.create("half")).id
    steps = [(await engine.steps.step(session, {"x": x[t : t + 1]}, None))[0]["y"] for t in range(50)]
    assert np.array_equal(np.concatenate(steps), whole)
    await engine.stop()


def test_getmodel_says_how_results_are_kept_equal(serve: Serve, varying: Path) -> None:
    for policy, invariant, said in (("pad", True, "every run has 256 rows"), ("share", False, "--batch-variance share")):
        with serve("--batch-variance", policy, models=varying) as server:
            caller = Caller(server.address)
            model = caller.stub.GetModel(pb.GetModelRequest(name="rnn")).model
            assert model.batch_invariant == invariant
            assert said in model.note
            caller.channel.close()


def made(spec: ModelSpec, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], path: Path) -> Path:
    """A file with these nodes, x [batch, 4] and s [batch, 4] -> y and s_n."""
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    sides = (spec.inputs, [s.tensor for s in spec.states]), (spec.outputs, [TensorSpec("s_n", "float32", ("batch", 4))])
    ins, outs = ([helper.make_tensor_value_info(t.name, kinds[t.dtype], t.shape) for t in (*a, *b)] for a, b in sides)
    initial = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", ins, outs, initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {SPEC_KEY: spec.to_json()})
    onnx.save(model, path)
    return path


def spec_of(name: str, dtype: str) -> ModelSpec:
    rows = ("batch", 4)
    state = StateSpec("s", "s_n", "float32", rows)
    return ModelSpec(name, (TensorSpec("x", dtype, rows),), (TensorSpec("y", "float32", rows),), (state,))


@pytest.mark.parametrize("kind", [OnnxRuntime, DeviceRuntime])
def test_a_kernel_that_changes_at_some_size_only_is_found(tmp_path: Path, kind: type[OnnxRuntime]) -> None:
    """y = s + x, and from 65 rows on a bit more; the state is the same at any size."""
    nodes = [
        helper.make_node("Add", ["x", "s"], ["s_n"]),
        helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
        helper.make_node("Greater", ["rows", "sixty_four"], ["many"]),
        helper.make_node("Where", ["many", "little", "nothing"], ["more"]),
        helper.make_node("Add", ["s_n", "more"], ["y"]),
    ]
    constants = {"sixty_four": np.array([64]), "little": np.array([1e-3], np.float32), "nothing": np.zeros(1, np.float32)}
    runtime = kind(made(spec_of("step", "float32"), nodes, constants, tmp_path / "model.onnx"))
    assert measure_variance(runtime, 1, 64) == ""
    assert "differed by 1.0e-03" in measure_variance(runtime, 1, 256)
    assert measure_variance(runtime, 256, 256) == "", "where all runs have as many rows, nothing differs"
    assert decide(runtime, "pad", 256).min_batch == 256


def test_a_model_that_cannot_be_run_at_all_is_an_error_and_not_called_invariant(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["words", "x"], ["y"], axis=0),  # of which there is only one: 1 is out of range
        helper.make_node("Add", ["y", "s"], ["s_n"]),
    ]
    path = made(spec_of("lookup", "int64"), nodes, {"words": np.zeros(1, np.float32)}, tmp_path / "model.onnx")
    with pytest.raises(LoadError, match="lookup cannot be run on cpu, not even on rows of random numbers"):
        decide(OnnxRuntime(path), "auto", 16)
