"""One bad model harms no other: it is refused with a reason, at the start and later, and taken in once it is mended."""

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from statecell_server.config import Config
from statecell_server.engine.engine import Engine
from statecell_server.errors import ModelNotFound, ModelRefused
from statecell_server.runtimes import invariance, trial_load
from statecell_server.runtimes.loading import load
from statecell_server.runtimes.runtime import LoadError

from tests.server import bad_models

LIMIT = 120
POLL = 0.05


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with one good model, "good"."""
    put(tmp_path / "models", "good", bad_models.model())
    return tmp_path / "models"


def put(folder: Path, name: str, content: bytes, file: str = "model.onnx") -> Path:
    """As a version should be written: under another name first."""
    version = folder / name / "1"
    version.mkdir(parents=True, exist_ok=True)
    part = version / f"{file}.part"
    part.write_bytes(content)
    part.rename(version / file)
    return version / file


@asynccontextmanager
async def running(folder: Path, **options: Any) -> AsyncIterator[Engine]:
    engine = Engine(Config(models=folder, **options))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(POLL)


async def works(engine: Engine) -> bool:
    session = await engine.lifecycle.create("good")
    x = np.ones((1, 4), np.float32)
    for index in range(3):
        outputs, _ = await engine.steps.step(session.id, {"x": x}, index)
        if not np.array_equal(outputs["y"], x * (index + 1)):
            return False
    return True


async def test_bad_files_beside_a_good_one_are_refused_at_the_start_each_with_its_reason(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, (content, _) in bad_models.files().items():
        put(folder, name, content)
    async with running(folder, trial_load="always") as engine:
        assert await works(engine)
        reasons = {absent.name: absent.reason for absent in await engine.models.absent()}
        assert reasons.keys() == bad_models.files().keys()
        for name, (_, says) in bad_models.files().items():
            assert says in reasons[name], name
            assert "\n" not in reasons[name]
            assert caplog.text.count(f"{name}/1 is not served") == 1
        assert engine.models.failing == reasons.keys()
        with pytest.raises(ModelNotFound, match="cut/1 is not served"):
            engine.models.get("cut")


async def test_bad_files_that_come_later_are_refused_and_mended_ones_are_taken_in(folder: Path) -> None:
    async with running(folder, poll_models=POLL) as engine:
        for name, (content, _) in bad_models.files().items():
            put(folder, name, content)
        names = bad_models.files().keys()
        await until(lambda: engine.models.failing == names)
        assert await works(engine)
        for name in names:
            put(folder, name, bad_models.model())
        await until(lambda: not engine.models.failing)
        assert {runner.name for runner in engine.models} == {"good", *names}
        assert await works(engine)


async def test_a_mended_file_that_is_older_than_the_bad_one_is_taken_in(folder: Path) -> None:
    async with running(folder, poll_models=POLL) as engine:
        put(folder, "late", b"bad")
        await until(lambda: "late" in engine.models.failing)
        mended = folder / "mended"
        mended.write_bytes(bad_models.model())
        os.utime(mended, (1, 1))
        mended.rename(folder / "late" / "1" / "model.onnx")
        await until(lambda: not engine.models.failing)
        engine.models.get("late")


async def test_what_is_no_file_holds_up_nobody(folder: Path) -> None:
    for name in ("pipe", "device", "folder", "nowhere", "script"):
        (folder / name / "1").mkdir(parents=True)
    os.mkfifo(folder / "pipe" / "1" / "model.onnx")
    (folder / "device" / "1" / "model.onnx").symlink_to("/dev/zero")
    (folder / "folder" / "1" / "model.onnx").mkdir()
    (folder / "nowhere" / "1" / "model.onnx").symlink_to("/nowhere/at/all")
    (folder / "script" / "1" / "model.pt").write_bytes(b"PK\3\4 and no more")
    (folder / "half" / "1").mkdir(parents=True)
    (folder / "half" / "1" / "model.onnx.part").write_bytes(b"")
    (folder / "words" / "latest").mkdir(parents=True)
    (folder / "words" / "latest" / "model.onnx").write_bytes(b"")
    (folder / "other" / "\u00b3").mkdir(parents=True)
    (folder / "other" / "\u00b3" / "model.onnx").write_bytes(b"")
    (folder / os.fsdecode(b"raw\xff") / "1").mkdir(parents=True)
    (folder / os.fsdecode(b"raw\xff") / "1" / "model.onnx").write_bytes(bad_models.model())
    says = {
        "pipe": "is a pipe, expected a file",
        "device": "is a device, expected a file",
        "folder": "is a folder, expected a file",
        "nowhere": "cannot be read: No such file",
        "script": "is no TorchScript",
        "words": "latest is not a version",
        "other": "is not a version",
        "raw\\udcff": "its name must be printable text",
    }
    async with running(folder) as engine:
        assert await works(engine)
        reasons = {absent.name: absent.reason for absent in await engine.models.absent()}
        assert reasons.keys() == says.keys()
        for name, text in says.items():
            assert text in reasons[name], name


async def test_a_model_that_ends_or_fills_its_process_is_refused_by_a_trial(folder: Path) -> None:
    put(folder, "aborting", bad_models.aborting())
    put(folder, "greedy", bad_models.greedy())
    async with running(folder, trial_load="auto") as engine:
        assert await works(engine)
        reasons = {absent.name: absent.reason for absent in await engine.models.absent()}
        assert "ended the process that tried it: SIG" in reasons["aborting"]
        assert "cannot be run" in reasons["greedy"] or "ended the process" in reasons["greedy"]
        with pytest.raises(ModelRefused, match="ended the process that tried it"):
            await engine.load("aborting")
        assert await works(engine)


async def test_a_model_whose_run_has_no_end_is_given_up_while_others_are_loaded_and_served(folder: Path) -> None:
    async with running(folder, trial_load="auto", poll_models=POLL, load_seconds=4.0) as engine:
        put(folder, "endless", bad_models.endless())
        await until(lambda: (folder / "endless" / "1") in engine.models._bringing)
        put(folder, "other", bad_models.model())
        await until(lambda: any(runner.name == "other" for runner in engine.models))
        assert await works(engine)
        await until(lambda: "endless" in engine.models.failing)
        (absent,) = await engine.models.absent()
        assert "took more than 4 s in a process of its own" in absent.reason
    assert not children()


def children() -> list[str]:
    """The processes that try models and still run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
        if b"trial_child" in command and parent == os.getpid():
            found.append(entry.name)
    return found


async def test_a_start_serves_the_others_before_a_model_that_takes_long(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statecell_server.engine.repository.PATIENCE", 0.0)
    put(folder, "also", bad_models.model())
    engine = Engine(Config(models=folder, trial_load="always"))
    await engine.start()
    await until(lambda: {runner.name for runner in engine.models} == {"good", "also"})
    assert await works(engine)
    await engine.stop()


async def test_a_file_that_does_not_come_is_given_up_and_the_others_served(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = threading.Event()
    read = trial_load.Trials.run

    def slow(self: trial_load.Trials, path: Path, *rest: Any) -> Any:
        if path.parent.name == "remote":
            stuck.wait(LIMIT)  # as a file of a network that is gone
        return read(self, path, *rest)

    monkeypatch.setattr(trial_load.Trials, "run", slow)
    async with running(folder, poll_models=POLL, trial_load="always", load_seconds=2.0) as engine:
        put(folder, "remote", bad_models.model())
        put(folder, "other", bad_models.model())
        await until(lambda: any(runner.name == "other" for runner in engine.models))
        await until(lambda: "remote" in engine.models.failing)
        assert await works(engine)
        (absent,) = await engine.models.absent()
        assert "its file did not come" in absent.reason
    stuck.set()


def test_nothing_to_serve_is_an_error_that_tells_each_reason(tmp_path: Path) -> None:
    for name in ("one", "two", "three", "four"):
        put(tmp_path, name, b"bad")
    with pytest.raises(LoadError) as error:
        Engine(Config(models=tmp_path))
    assert "no model in" in str(error.value)
    assert str(error.value).count("cannot be loaded") == 3
    assert "and 1 more" in str(error.value)


def test_an_option_may_name_a_model_that_is_refused_and_none_that_is_not_there(folder: Path) -> None:
    put(folder, "bad", b"bad", "model.pt")
    Engine(Config(models=folder, for_models={"bad": {"runtime": "torchscript"}}))
    with pytest.raises(LoadError, match=r"models\.gone has settings \(runtime\), but 'gone' is no model; there are bad, good"):
        Engine(Config(models=folder, for_models={"gone": {"runtime": "torchscript"}}))


def test_a_trial_measures_what_the_server_would(folder: Path) -> None:
    config = Config(models=folder)
    trials = trial_load.Trials()
    digest, sharing = trials.run(folder / "good" / "1", "onnxruntime", config.device, config)
    trials.close()
    runtime = load(folder / "good" / "1", "onnxruntime", config.device, config)
    assert digest == runtime.digest
    assert sharing == invariance.decide(runtime, config.batch_variance, config.max_batch)


def test_one_process_tries_many_models_and_a_new_one_follows_one_that_died(folder: Path) -> None:
    put(folder, "aborting", bad_models.aborting())
    shutil.copytree(folder / "good", folder / "again")
    config = Config(models=folder)
    trials = trial_load.Trials()
    for name in ("good", "again", "aborting", "good"):
        try:
            trials.run(folder / name / "1", "onnxruntime", config.device, config)
        except LoadError:
            assert name == "aborting"
            assert not children()
        else:
            assert len(children()) == 1
    trials.close()
    assert not children()
