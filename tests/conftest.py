"""Real servers on port 0 and small real models, for all tests."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import statecell_export
import torch
from torch import nn

Serve = Callable[..., AbstractContextManager["Server"]]


@dataclass
class Server:
    """A statecell-server in a process of its own."""

    address: str
    process: "subprocess.Popen[str]"

    def stop(self) -> int:
        """SIGTERM, as an operator would; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


class Tagger(nn.Module):
    """Embedding + LSTM + head, as a user would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.lstm = nn.LSTM(8, 16, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out, _ = self.lstm(self.embedding(x))
        return self.head(out)  # type: ignore[no-any-return]


def modules() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """The modules behind the `models` fixture and an example for each, the same in every process."""
    torch.manual_seed(0)
    return {
        "lstm": (nn.LSTM(10, 20, 2), torch.randn(5, 3, 10)),
        "batch_first": (nn.LSTM(10, 20, batch_first=True), torch.randn(3, 5, 10)),
        "lstm_cell": (nn.LSTMCell(10, 20), torch.randn(3, 10)),
        "gru": (nn.GRU(10, 20), torch.randn(5, 3, 10)),
        "rnn": (nn.RNN(10, 20), torch.randn(5, 3, 10)),
        "bidirectional": (nn.LSTM(10, 20, bidirectional=True), torch.randn(5, 3, 10)),
        "tagger": (Tagger(), torch.randint(0, 11, (3, 5))),
    }


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository."""
    out = tmp_path_factory.mktemp("models")
    for name, (module, example) in modules().items():
        statecell_export.export(module.eval(), example, name=name, out=out)
    return out


@pytest.fixture(scope="session")
def serve(models: Path) -> Serve:
    """`with serve("--max-queue", "8") as server:` a server of `models` (or of models=...) until the end of the block."""

    @contextmanager
    def run(*flags: str, models: Path = models) -> Iterator[Server]:
        command = [sys.executable, "-m", "statecell_server", "--models", str(models), "--port", "0", *flags]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line.startswith("listening on "), f"the server said {line!r}"
                yield Server(line.split()[-1], process)
            finally:
                process.kill()

    return run


@pytest.fixture(scope="module")
def server(serve: Serve) -> Iterator[Server]:
    """A server with default settings that the tests of a module share."""
    with serve() as running:
        yield running
