"""Real servers on port 0 and small real models, for all tests."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
import statecell_export

from tests.modules import modules

LIMIT = 600.0
"""Seconds after which a program counts as hung: far beyond what any takes, also on a machine that is busy with other things."""

Serve = Callable[..., AbstractContextManager["Server"]]


@dataclass
class Server:
    """A statecell-server in a process of its own."""

    address: str
    process: "subprocess.Popen[str]"
    http: str = ""
    """HOST:PORT, of a server with --http-port."""

    def stop(self) -> int:
        """SIGTERM, as an operator would; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=LIMIT)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was skipped, and what to install for it, as the reasons say."""
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", []))
    if reasons:
        terminalreporter.section("skipped")
        for reason, count in reasons.most_common():
            terminalreporter.line(f"{count:4} for this reason: {reason}")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository."""
    out = tmp_path_factory.mktemp("models")
    for name, (module, example) in modules().items():
        statecell_export.export(module.eval(), example, name=name, out=out)
    return out


@pytest.fixture(scope="session")
def example_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example models, exported by the command."""
    out = tmp_path_factory.mktemp("examples") / "models"
    command = [sys.executable, "-m", "statecell_export", "examples", "--out", str(out)]
    exported = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert exported.returncode == 0, exported.stderr
    return out


@pytest.fixture(scope="session")
def serve(models: Path) -> Serve:
    """`with serve("--max-queue", "8") as server:` a server of `models` (or of models=...) until the end of the block.

    python=...: that of another environment. stderr=...: a file for what it logs.
    """

    @contextmanager
    def run(
        *flags: str, models: Path = models, python: Path = Path(sys.executable), stderr: IO[str] | None = None
    ) -> Iterator[Server]:
        command = [str(python), "-m", "statecell_server", "--models", str(models), "--port", "0", *flags]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line.startswith("listening on "), f"the server said {line!r}"
                http = process.stdout.readline() if "--http-port" in flags else ""
                yield Server(line.split()[-1], process, http.rpartition(" ")[2].strip())
            finally:
                process.kill()

    return run


@pytest.fixture(scope="module")
def server(serve: Serve) -> Iterator[Server]:
    """A server with default settings that the tests of a module share."""
    with serve() as running:
        yield running
