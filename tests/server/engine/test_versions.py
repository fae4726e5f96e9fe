"""New versions of models, while the server runs."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
import statecell_export
import torch
from statecell_server.config import Config
from statecell_server.durability.store import MemoryStore
from statecell_server.engine.engine import Engine
from statecell_server.errors import ModelNotFound
from torch import nn

X = np.random.default_rng(0).standard_normal((1, 1, 10), np.float32)
POLL = 0.05


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    """A repository with version 1 of one model."""
    shutil.copytree(models / "lstm", tmp_path / "models" / "lstm")
    return tmp_path / "models"


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[Engine]:
    """One that looks for new versions."""
    running = Engine(Config(models=folder, poll_models=POLL), MemoryStore(ttl=60))
    await running.start()
    yield running
    await running.stop()


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts of another lstm, of the same shape."""
    torch.manual_seed(2)
    out = tmp_path_factory.mktemp("second")
    statecell_export.export(nn.LSTM(10, 20, 2).eval(), torch.randn(5, 3, 10), name="lstm", out=out)
    return out / "lstm" / "1"


def versions(engine: Engine) -> list[str]:
    return [runner.version for runner in engine.models]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(POLL)


async def test_a_new_version_serves_new_sessions_the_old_one_its_own_until_they_end(
    engine: Engine, folder: Path, second: Path
) -> None:
    old, kept = await engine.lifecycle.create("lstm"), await engine.lifecycle.create("lstm", durable=True)
    before, _ = await engine.steps.step(old.id, {"x": X}, 0)
    shutil.copytree(second, folder / "lstm" / "2")
    await until(lambda: versions(engine) == ["1", "2"])
    new = await engine.lifecycle.create("lstm")
    assert (old.version, new.version) == ("1", "2")
    other, _ = await engine.steps.step(new.id, {"x": X}, 0)
    assert not np.array_equal(before["y"], other["y"])
    same, _ = await engine.steps.step(kept.id, {"x": X}, 0)
    np.testing.assert_array_equal(before["y"], same["y"])
    await engine.lifecycle.delete(old.id)
    await asyncio.sleep(3 * POLL)
    assert versions(engine) == ["1", "2"]
    await engine.lifecycle.delete(kept.id)
    await until(lambda: versions(engine) == ["2"])
    with pytest.raises(ModelNotFound):
        engine.models.get("lstm", "1")


async def test_a_stored_session_of_a_version_that_was_unloaded_loads_it_again(folder: Path, second: Path) -> None:
    store = MemoryStore(ttl=60)
    polling = Engine(Config(models=folder, poll_models=POLL), store)
    await polling.start()
    first = Engine(Config(models=folder), store)
    await first.start()
    session = await first.lifecycle.create("lstm", durable=True)
    await first.steps.step(session.id, {"x": X}, 0)
    twin = await first.lifecycle.create("lstm")
    await first.steps.step(twin.id, {"x": X}, 0)
    shutil.copytree(second, folder / "lstm" / "2")
    await until(lambda: versions(polling) == ["2"])
    there, _ = await polling.steps.step(session.id, {"x": X}, 1)
    here, _ = await first.steps.step(twin.id, {"x": X}, 1)
    np.testing.assert_array_equal(there["y"], here["y"])
    assert sorted(versions(polling)) == ["1", "2"]
    await polling.stop()
    await first.stop()


async def test_a_version_that_is_not_valid_is_logged_once_and_taken_when_it_is(
    engine: Engine, folder: Path, second: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "lstm" / "2").mkdir()
    (folder / "lstm" / "2" / "model.onnx").write_bytes((second / "model.onnx").read_bytes()[:1000])
    (folder / "lstm" / "latest").mkdir()
    (folder / "lstm" / "latest" / "model.onnx").write_bytes(b"")
    await until(lambda: "lstm/2/model.onnx cannot be loaded" in caplog.text and "is not a version" in caplog.text)
    await asyncio.sleep(4 * POLL)
    assert caplog.text.count("cannot be loaded") == caplog.text.count("is not a version") == 1
    session = await engine.lifecycle.create("lstm")
    await engine.steps.step(session.id, {"x": X}, 0)
    assert versions(engine) == ["1"]
    shutil.copytree(second, folder / "lstm" / "2", dirs_exist_ok=True)
    await until(lambda: versions(engine) == ["1", "2"])
