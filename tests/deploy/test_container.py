"""The images that `make image ENGINE=buildah` has built: started, stepped, killed, drained. Skipped where there are none."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from statecell_client import Client

from release.version import current
from tests.conftest import LIMIT
from tests.deploy.image import Image, Unavailable, first_process
from tests.faults.load import LocalRun
from tests.faults.replicas import Redis


def image(name: str) -> Iterator[Image]:
    try:
        found = Image(name)
    except Unavailable as error:
        pytest.skip(str(error))
    with found:
        yield found


@pytest.fixture(scope="module")
def cpu() -> Iterator[Image]:
    yield from image(f"statecell-server:{current()}")


@pytest.fixture(scope="module")
def export() -> Iterator[Image]:
    yield from image(f"statecell-export:{current()}")


@pytest.fixture
def readable(model: Path) -> Path:
    """The models, such that the image's user may read them."""
    for path in (model, *model.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return model


def address(process: "subprocess.Popen[str]") -> str:
    """Where it listens, as soon as it does."""
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert line.startswith("listening on "), line or process.stderr.read()
    return line.split()[-1]


def test_it_steps_drains_and_ends_as_process_1_with_a_read_only_root(cpu: Image, readable: Path, local: LocalRun) -> None:
    with cpu.run(*cpu.serve(), models=readable) as process:
        server = address(process)
        status = dict(line.split(":", 1) for line in Path(f"/proc/{first_process(process)}/status").read_text().splitlines())
        assert status["Uid"].split() == ["10001"] * 4
        assert status["NSpid"].split()[-1] == "1"
        assert int(status["CapEff"], 16) == 0
        with cpu.run(*cpu.config["Healthcheck"]["Test"][1:-1], server) as check:
            assert check.wait(LIMIT) == 0
        xs = np.random.default_rng(1).standard_normal((200, 10), np.float32)
        with Client(server) as client:
            session = client.session("lstm")
            ys = [session.step(x) for x in xs]
            np.testing.assert_array_equal(np.stack(ys), local(list(xs))[0])
            answers: list[int] = []
            long = threading.Thread(
                target=lambda: answers.append(len(client.infer("lstm", x=np.zeros((300_000, 1, 10), np.float32))["y"]))
            )
            long.start()
            time.sleep(0.3)
            os.kill(first_process(process), signal.SIGTERM)
            assert process.wait(LIMIT) == 0
            long.join()
        assert answers == [300_000], "what was in flight is answered in the drain"
        with cpu.run(*cpu.config["Healthcheck"]["Test"][1:-1], server) as check:
            assert check.wait(LIMIT) == 1


def test_a_durable_session_goes_on_in_another_container_when_its_own_is_killed(
    cpu: Image, readable: Path, local: LocalRun, redis: Redis
) -> None:
    xs = np.random.default_rng(2).standard_normal((20, 10), np.float32)
    options = cpu.serve("--store", redis.url)
    with cpu.run(*options, models=readable) as one, cpu.run(*options, models=readable) as two:
        first, second = address(one), address(two)
        with Client([first, second]) as client, client.session("lstm", durable=True) as session:
            ys = [session.step(x) for x in xs[:10]]
            held = first if _sessions(first) else second
            os.kill(first_process(one if held == first else two), signal.SIGKILL)
            ys += [session.step(x) for x in xs[10:]]
        np.testing.assert_array_equal(np.stack(ys), local(list(xs))[0])


def _sessions(server: str) -> int:
    with Client(server) as client:
        return sum(model.session_count for model in client.models())


def test_a_models_mount_that_was_forgotten_is_said(cpu: Image) -> None:
    if (cpu.root / "models").exists():
        (cpu.root / "models").rmdir()
    with cpu.run(*cpu.serve()) as process:
        said = process.communicate(timeout=LIMIT)[1]
    assert process.returncode == 2
    assert "--models /models is not a folder" in said
    assert "mount yours there: -v $PWD/models:/models:ro" in said


def test_it_holds_no_torch_and_says_what_it_holds(cpu: Image) -> None:
    bill = json.loads((cpu.root / "usr/share/doc/statecell/statecell.cdx.json").read_text())
    names = {part["name"] for part in bill["components"]}
    assert {"statecell-server", "statecell-client", "onnxruntime", "hpack", "valkey"} <= names
    assert not names & {"torch", "onnx", "statecell-export", "pip"}
    assert cpu.config["Labels"]["org.opencontainers.image.version"] == current()
    assert not cpu.config.get("Volumes")


def test_the_export_image_exports(export: Image) -> None:
    with export.run(*export.config["Entrypoint"], "--version") as process:
        assert process.communicate(timeout=LIMIT)[0] == f"statecell-export {current()}\n"
    with export.run(
        "python", "-c", "import torch, statecell_export; print(torch.nn.LSTM(1, 1)(torch.ones(1, 1, 1))[0].shape)"
    ) as process:
        assert process.communicate(timeout=LIMIT)[0] == "torch.Size([1, 1, 1])\n"
