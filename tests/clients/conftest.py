"""A real server in its own process, with small real models, and the PyTorch modules that they were exported from."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from statecell_client import Client
from statecell_export import export
from torch import Tensor, nn

State = tuple[Tensor, Tensor] | None


class Letters(nn.Module):
    """Ids in, logits out; batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(17, 8)
        self.lstm = nn.LSTM(8, 12, 2, batch_first=True)
        self.head = nn.Linear(12, 17)

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        y, state = self.lstm(self.embedding(x), state)
        return self.head(y), state


class TwoInTwoOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 6)
        self.first = nn.Linear(6, 2)
        self.second = nn.Linear(6, 3)

    def forward(self, u: Tensor, v: Tensor, state: State = None) -> tuple[Tensor, Tensor, State]:
        y, state = self.lstm(torch.cat([u, v], -1), state)
        return self.first(y), self.second(y), state


def _modules() -> dict[str, tuple[nn.Module, object]]:
    """By name: the module and the example that it is exported with."""
    return {
        "lstm": (nn.LSTM(10, 20, 2), torch.zeros(5, 3, 10)),
        "lstm_cell": (nn.LSTMCell(10, 20), torch.zeros(3, 10)),
        "both_ways": (nn.LSTM(4, 5, bidirectional=True), torch.zeros(5, 3, 4)),
        "gru": (nn.GRU(4, 6, batch_first=True), torch.zeros(3, 5, 4)),
        "gru_cell": (nn.GRUCell(4, 6), torch.zeros(3, 4)),
        "rnn": (nn.RNN(4, 6), torch.zeros(5, 3, 4)),
        "rnn_cell": (nn.RNNCell(4, 6), torch.zeros(3, 4)),
        "letters": (Letters(), torch.zeros(3, 5, dtype=torch.int64)),
        "two": (TwoInTwoOut(), (torch.zeros(5, 3, 3), torch.zeros(5, 3, 2))),
    }


class Server:
    """`python -m statecell_server` on a port, killed at the end."""

    def __init__(self, models: Path, port: int = 0) -> None:
        command = [sys.executable, "-m", "statecell_server", "--models", str(models), "--port", str(port)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), line
        self.address = line.split()[-1]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="session")
def modules() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: module.eval() for name, (module, _) in _modules().items()}


@pytest.fixture(scope="session")
def models(modules: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models")
    for name, (_, example) in _modules().items():
        export(modules[name], example, name=name, out=out)
    return out


@pytest.fixture(scope="session")
def address(models: Path) -> Iterator[str]:
    server = Server(models)
    yield server.address
    server.stop()


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client
