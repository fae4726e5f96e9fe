"""What is done where a model's results depend on the batch, or on the length of a run."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import statecell_export
import torch
from statecell.spec import SPEC_KEY, ModelSpec
from statecell.v1 import inference_pb2 as pb
from statecell_server.config import Config
from statecell_server.engine.engine import Engine
from statecell_server.engine.repository import Repository
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
    alone = [(await engine.infer("rnn", "", {"x": x[:, i : i + 1]}))["y"] for i in range(8)]
    ids = [(await engine.create("rnn")).id for _ in range(8)]
    for t in range(6):
        replies = await asyncio.gather(*(engine.step(s, {"x": x[t : t + 1, i : i + 1]}, None) for i, s in enumerate(ids)))
        for i, (outputs, _) in enumerate(replies):
            assert np.array_equal(outputs["y"][0], alone[i][t])
    await engine.stop()


async def test_where_the_length_of_a_run_matters_every_run_is_of_one_step(varying: Path) -> None:
    engine = Engine(Config(models=varying))
    sharing = engine.models.get("half").sharing
    assert (sharing.run_length, sharing.max_batch, sharing.variance) == (1, 256, "")
    await engine.start()
    x = np.random.default_rng(0).standard_normal((50, 1, 32)).astype(np.float16)
    whole = (await engine.infer("half", "", {"x": x}))["y"]
    session = (await engine.create("half")).id
    steps = [(await engine.step(session, {"x": x[t : t + 1]}, None))[0]["y"] for t in range(50)]
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
