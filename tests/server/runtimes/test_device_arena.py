"""With its states on the device, a model gives and keeps what it does with them on the host, to the bit."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import statecell_export
import torch
from onnx import TensorProto, helper
from statecell.spec import SPEC_KEY, ModelSpec, StateSpec, TensorSpec
from statecell.tensor import Array
from statecell.v1 import inference_pb2 as pb
from statecell_server.config import Config
from statecell_server.device import Device
from statecell_server.durability.store import MemoryStore
from statecell_server.engine.engine import Engine
from statecell_server.errors import InputRefused, StateBudgetExceeded
from statecell_server.runtimes import driver
from statecell_server.runtimes.device_arena import DeviceArena
from statecell_server.runtimes.onnx_device import DeviceRuntime
from statecell_server.runtimes.runtime import LoadError
from torch import nn

from tests.conftest import Serve
from tests.modules import Tagger
from tests.server.caller import Caller

SESSIONS = 12
ROUNDS = 250


class Pair(nn.Module):
    """States of several shapes, one of them with its batch axis in front; y is the last state as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = nn.GRUCell(6, 9), nn.LSTMCell(9, 7)

    def forward(
        self, x: torch.Tensor, h: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        h = self.lower(x, h)
        a, b = self.upper(h, state)
        return a * 2, h, (a, b)


def without_batch() -> onnx.ModelProto:
    """A model that runs one session at a time: y = s + x, s_n = 2 s + x, state [2, 3], that begins at 0.5."""
    spec = ModelSpec(
        "alone",
        (TensorSpec("x", "float32", (2, 3)),),
        (TensorSpec("y", "float32", (2, 3)),),
        (StateSpec("s", "s_n", "float32", (2, 3), initial=0.5),),
    )
    nodes = [helper.make_node("Add", ["s", "x"], ["y"]), helper.make_node("Add", ["s", "y"], ["s_n"])]
    ins, outs = ([helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in names] for names in ("xs", ("y", "s_n")))
    model = helper.make_model(
        helper.make_graph(nodes, "g", ins, outs), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    helper.set_model_props(model, {SPEC_KEY: spec.to_json()})
    return model


@pytest.fixture(scope="module")
def variety(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models")
    torch.manual_seed(3)
    x = torch.randn(5, 3, 6)
    for name, module, example, form in (
        ("lstm", nn.LSTM(6, 20, 2), x, "float32"),
        ("half", nn.LSTM(6, 20), x, "float16"),
        ("int8", nn.LSTM(6, 32), x, "int8"),
        ("gru", nn.GRU(6, 17, batch_first=True), x, "float32"),
        ("rnn", nn.RNN(6, 17), x, "float32"),
        ("proj", nn.LSTM(6, 16, proj_size=5), x, "float32"),
        ("pair", Pair(), (torch.randn(3, 6), torch.zeros(3, 9), (torch.zeros(3, 7), torch.zeros(3, 7))), "float32"),
        ("tagger", Tagger(), torch.randint(0, 11, (3, 5)), "float32"),
        ("bidirectional", nn.LSTM(6, 8, bidirectional=True), x, "float32"),
    ):
        statecell_export.export(module.eval(), example, name=name, out=out, form=form)
    (out / "alone" / "1").mkdir(parents=True)
    onnx.save(without_batch(), out / "alone" / "1" / "model.onnx")
    return out


def drawn(spec: ModelSpec, seq_len: int, rows: int, rng: np.random.Generator) -> dict[str, Array]:
    """Inputs of a call."""
    tensors = {}
    for t in spec.inputs:
        shape = t.sized(seq_len=seq_len, batch=rows)
        tensors[t.name] = (rng.standard_normal(shape) if np.dtype(t.dtype).kind == "f" else rng.integers(0, 11, shape)).astype(
            t.dtype
        )
    return tensors


async def play(engine: Engine, model: str) -> list[Array]:
    """Everything that a long random schedule shows: outputs, snapshots, forks, sessions set and reset. The same each time."""
    rng, spec = np.random.default_rng(7), engine.models.get(model).spec
    shown: list[Array] = []
    ids = [
        (await engine.lifecycle.create(model, batch=int(rng.choice([1, 1, 2])) if spec.has_batch else 1)).id
        for _ in range(SESSIONS)
    ]
    for _ in range(ROUNDS):
        chosen = rng.permutation(SESSIONS)[: rng.integers(1, SESSIONS + 1)]
        calls = []
        for i in chosen:
            batch = engine.sessions.get(ids[i]).batch
            seq_len = int(rng.choice([1, 1, 1, 3, 70])) if spec.has_time else 1  # 70: more than one run
            calls.append(engine.steps.step(ids[i], drawn(spec, seq_len, batch, rng), None))
        for outputs, _ in await asyncio.gather(*calls):
            shown += outputs.values()
        i, what = int(rng.integers(SESSIONS)), rng.random()
        snapshot = await engine.lifecycle.snapshot(ids[i])
        shown += snapshot.states.values()
        if what < 0.1:
            await engine.lifecycle.reset(ids[i])
        elif what < 0.3:
            fork = (await engine.lifecycle.fork(ids[i], 1))[0].id
            await engine.lifecycle.delete(ids[i])
            ids[i] = fork
        elif what < 0.5:
            await engine.lifecycle.delete(ids[i])
            ids[i] = (await engine.lifecycle.create(model, snapshot=snapshot, checksum=snapshot.checksum())).id
    return shown


@pytest.mark.parametrize("model", ["lstm", "half", "int8", "gru", "rnn", "proj", "pair", "tagger", "alone"])
async def test_a_random_schedule_shows_the_same_bits_on_the_host_and_on_the_device(variety: Path, model: str) -> None:
    seen = []
    for where in ("host", "device"):
        engine = Engine(Config(models=variety, state_arena=where))
        assert isinstance(engine.models.get(model).arena, DeviceArena) == (where == "device")
        await engine.start()
        seen.append(await play(engine, model))
        arena = engine.models.get(model).arena
        for session in list(engine.sessions):
            await engine.lifecycle.delete(session.id)
        assert arena.used == 0
        await engine.stop()
    assert len(seen[0]) == len(seen[1]) > ROUNDS
    assert all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(*seen, strict=True))


on_a_gpu = pytest.mark.skipif(
    driver.devices() == 0 or "CUDAExecutionProvider" not in ort.get_available_providers(),
    reason="this machine has no GPU, or this environment no onnxruntime-gpu",
)


@on_a_gpu
@pytest.mark.parametrize("model", ["half", "proj", "pair", "tagger", "alone"])
async def test_on_a_gpu_a_random_schedule_shows_the_same_bits_wherever_its_states_are(variety: Path, model: str) -> None:
    seen = []
    for where in ("host", "device"):
        engine = Engine(Config(models=variety, state_arena=where, device=Device("cuda"), max_batch=16))
        assert engine.models.get(model).runtime.device == "cuda:0"
        assert ("runs in ONNX Runtime, for" in engine.models.get(model).note) == (where == "device")
        await engine.start()
        seen.append(await play(engine, model))
        await engine.stop()
    assert all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(*seen, strict=True))


@on_a_gpu
@pytest.mark.parametrize("model", ["lstm", "gru", "rnn"])
async def test_on_a_gpu_the_kernels_show_the_same_bits_in_batches_of_any_size(variety: Path, model: str) -> None:
    seen = []
    for max_batch, where in ((64, "device"), (2, "device"), (16, "host")):
        engine = Engine(Config(models=variety, device=Device("cuda"), max_batch=max_batch, state_arena=where))
        runner = engine.models.get(model)
        if where == "device":
            assert "one kernel of statecell-server's own" in runner.note
            assert (runner.sharing.variance, runner.sharing.max_batch, runner.sharing.run_length) == ("", max_batch, None)
        await engine.start()
        seen.append(await play(engine, model))
        await engine.stop()
    assert all(np.array_equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))
    for a, b in zip(seen[0], seen[2], strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


async def test_the_arena_grows_under_steps_and_keeps_every_row(variety: Path) -> None:
    engine = Engine(Config(models=variety, state_arena="device", max_batch=64))
    await engine.start()
    rng, spec = np.random.default_rng(0), engine.models.get("lstm").spec
    first = await engine.lifecycle.create("lstm", batch=50)
    await engine.steps.step(first.id, drawn(spec, 3, 50, rng), None)
    before = await engine.lifecycle.snapshot(first.id)
    many = [(await engine.lifecycle.create("lstm")).id for _ in range(1500)]
    await asyncio.gather(*(engine.steps.step(i, drawn(spec, 1, 1, rng), None) for i in many))
    assert engine.models.get("lstm").arena.capacity > 1500
    after = await engine.lifecycle.snapshot(first.id)
    assert all(np.array_equal(before.states[n], after.states[n]) for n in before.states)
    fresh = await engine.lifecycle.snapshot((await engine.lifecycle.create("lstm")).id)
    assert not any(fresh.states[n].any() for n in fresh.states), "the initial slot is as it was"
    await engine.stop()


async def test_a_refused_input_costs_its_own_session_nothing_and_the_others_nothing(variety: Path) -> None:
    engine = Engine(Config(models=variety, state_arena="device"))
    await engine.start()
    good, bad = (await engine.lifecycle.create("tagger")).id, (await engine.lifecycle.create("tagger")).id
    x = np.full((1, 70), 4)
    wrong = x.copy()
    wrong[0, 60] = 99  # no such embedding: refused in the step's second run or a later one
    for session in (good, bad):
        await engine.steps.step(session, {"x": x}, None)
    before = await engine.lifecycle.snapshot(bad)
    results = await asyncio.gather(
        engine.steps.step(good, {"x": x}, None), engine.steps.step(bad, {"x": wrong}, None), return_exceptions=True
    )
    assert not isinstance(results[0], BaseException)
    assert isinstance(results[1], InputRefused)
    after = await engine.lifecycle.snapshot(bad)
    assert after.step_index == 70
    assert all(np.array_equal(before.states[n], after.states[n]) for n in before.states)
    expected = (await engine.lifecycle.create("tagger")).id
    for _ in range(2):
        outputs, _ = await engine.steps.step(expected, {"x": x}, None)
    assert np.array_equal(outputs["y"], results[0][0]["y"])
    await engine.stop()


async def test_on_a_device_that_is_full_steps_that_find_room_go_on(variety: Path) -> None:
    engine = Engine(Config(models=variety, state_arena="device"))
    await engine.start()
    rng, arena = np.random.default_rng(1), engine.models.get("lstm").arena
    assert isinstance(arena, DeviceArena)
    spec, session = engine.models.get("lstm").spec, (await engine.lifecycle.create("lstm")).id
    await engine.steps.step(session, drawn(spec, 3, 1, rng), None)
    arena.capacity = 1 << 40  # more than there can be: as if a model beside it had taken the rest
    await engine.steps.step(session, drawn(spec, 70, 1, rng), None)
    before = await engine.lifecycle.snapshot(session)
    arena._free.append(1 << 39)  # the next slot that is given out
    with pytest.raises(StateBudgetExceeded, match="--state-memory"):
        await engine.steps.step(session, drawn(spec, 1, 1, rng), None)
    after = await engine.lifecycle.snapshot(session)
    assert after.step_index == before.step_index == 73
    assert all(np.array_equal(before.states[n], after.states[n]) for n in before.states)
    await engine.stop()


async def test_states_are_read_while_other_rows_are_written(variety: Path) -> None:
    engine = Engine(Config(models=variety, state_arena="device"))
    await engine.start()
    rng, spec = np.random.default_rng(1), engine.models.get("lstm").spec
    still, busy = (await engine.lifecycle.create("lstm", batch=8)).id, (await engine.lifecycle.create("lstm", batch=100)).id
    await engine.steps.step(still, drawn(spec, 2, 8, rng), None)
    before = await engine.lifecycle.snapshot(still)
    running = asyncio.create_task(engine.steps.step(busy, drawn(spec, 2000, 100, rng), None))
    reads = 0
    while not running.done():
        now = await engine.lifecycle.snapshot(still)
        assert all(np.array_equal(before.states[n], now.states[n]) for n in before.states)
        reads += 1
        await asyncio.sleep(0)
    assert reads > 10
    await engine.stop()


async def test_idle_states_spill_and_come_back_and_durable_ones_outlive_their_server(variety: Path) -> None:
    rng, store = np.random.default_rng(4), MemoryStore(ttl=60)
    row = 2 * 2 * 20 * 4
    shown = []
    for where in ("host", "device"):
        config = Config(models=variety, state_arena=where, state_memory=40 * row, max_batch=8)
        engine = Engine(config, store)
        await engine.start()
        spec = engine.models.get("lstm").spec
        ids = [(await engine.lifecycle.create("lstm", durable=i % 2 == 0)).id for i in range(200)]
        for _ in range(2):
            for first in range(0, 200, 8):
                x = drawn(spec, 3, 8, rng)["x"]
                calls = [engine.steps.step(ids[first + i], {"x": x[:, i : i + 1]}, None) for i in range(8)]
                await asyncio.gather(*calls)
        assert any(s.loaded is not None for s in engine.sessions), "200 rows do not fit into 40"
        before = [await engine.lifecycle.snapshot(i) for i in ids]
        await engine.stop()
        after = Engine(replace(config, state_arena="host"), store)  # another server, that keeps states elsewhere
        await after.start()
        for i in range(0, 200, 2):
            found = await after.lifecycle.snapshot(ids[i])
            assert found.step_index == 6
            assert all(np.array_equal(found.states[n], before[i].states[n]) for n in found.states)
        await after.stop()
        rng = np.random.default_rng(4)
        shown.append([snapshot.states["h_0"] for snapshot in before])
    assert all(np.array_equal(a, b) for a, b in zip(*shown, strict=True))


def test_over_the_wire_sessions_infer_and_half_precision_are_the_same(serve: Serve, variety: Path) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((4, 2, 6)).astype(np.float32)
    seen: list[list[Array]] = []
    for where in ("host", "device"):
        shown: list[Array] = []
        with serve("--state-arena", where, models=variety) as server:
            caller = Caller(server.address)
            for name, dtype in (("lstm", np.float32), ("half", np.float16), ("bidirectional", np.float32)):
                model = caller.stub.GetModel(pb.GetModelRequest(name=name)).model
                assert (model.device, model.batch_invariant) == ("cpu", True)
                shown += caller.infer(name, x.astype(dtype)).values()
                if not model.spec.streamable:
                    continue
                state: dict[str, Any] = {
                    s.input: rng.standard_normal((int(s.shape[0]), 2, 20)).astype(dtype) for s in model.spec.states
                }
                session = caller.create(name, 2, **state)
                rng = np.random.default_rng(3)
                assert all(np.array_equal(caller.state(session)[n], state[n]) for n in state)
                shown.append(caller.step(session, x.astype(dtype), 0))
                shown += caller.state(session).values()
                assert shown[-1].dtype == dtype
            caller.channel.close()
        rng = np.random.default_rng(2)
        rng.standard_normal((4, 2, 6))
        seen.append(shown)
    assert len(seen[0]) == len(seen[1])
    assert all(np.array_equal(a, b) for a, b in zip(*seen, strict=True))


def test_a_model_that_is_not_what_its_spec_says_is_refused_at_load(tmp_path: Path) -> None:
    model = without_batch()
    path = tmp_path / "model.onnx"
    spec = ModelSpec.from_json(model.metadata_props[0].value)
    model.metadata_props[0].value = replace(spec, states=(replace(spec.states[0], input="t"),)).to_json()
    onnx.save(model, path)
    with pytest.raises(LoadError, match="its spec says"):
        DeviceRuntime(path)


def test_an_arena_that_the_device_has_no_room_for_is_refused_and_the_old_one_stays(variety: Path) -> None:
    arena = DeviceRuntime(variety / "lstm" / "1" / "model.onnx").arena(1 << 60, 4)
    slots = arena.allocate(2)
    arena.write(slots, [np.ones((2, 2, 20), np.float32)] * 2)
    with pytest.raises(StateBudgetExceeded, match="--state-memory"):
        arena.reserve(1 << 40)
    assert np.array_equal(arena.read(slots)[0], np.ones((2, 2, 20)))
