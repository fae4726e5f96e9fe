"""Fixtures of the fault tests: a real redis-server, and the table of what the faults cost."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import statecell_export

from tests.faults.figures import Figures
from tests.faults.load import LocalRun
from tests.faults.proxy import FaultProxy
from tests.faults.replicas import Redis
from tests.modules import modules

MODEL = "lstm"
FIGURES = Figures()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with one model, so that replicas start fast."""
    out = tmp_path_factory.mktemp("model")
    module, example = modules()[MODEL]
    statecell_export.export(module.eval(), example, name=MODEL, out=out)
    return out


@pytest.fixture(scope="session")
def local(model: Path) -> LocalRun:
    """The same model, uninterrupted in this process."""
    return LocalRun(model)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A redis-server that forgets nothing, on a free port; the test is skipped where it is not installed."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    with Redis(tmp_path) as running:
        yield running


@pytest.fixture
def road(redis: Redis) -> Iterator[FaultProxy]:
    """The way from the replicas to the store."""
    with FaultProxy(redis.port) as proxy:
        yield proxy


@pytest.fixture
def figures() -> Figures:
    """Where a test writes what its fault cost."""
    return FIGURES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table, on the screen and in out/faults.md."""
    if FIGURES.rows:
        terminalreporter.section("what the faults cost")
        terminalreporter.write_line(FIGURES.table())
        FIGURES.write(Path("out/faults.md"))
