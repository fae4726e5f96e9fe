"""A server for the client's tests, with models beyond the shared ones: several inputs and outputs, every cell."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import statecell_export
import torch
from statecell_client import Client
from torch import Tensor, nn

from tests.conftest import Serve

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


class Verdict(nn.Module):
    """One answer for a whole sequence, from its last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        return self.head(y[:, -1])  # type: ignore[no-any-return]


EXAMPLES: dict[str, tuple[type[nn.Module], tuple[int, ...], dict[str, bool], object]] = {
    "both_ways": (nn.LSTM, (4, 5), {"bidirectional": True}, torch.zeros(5, 3, 4)),
    "gru": (nn.GRU, (4, 6), {"batch_first": True}, torch.zeros(3, 5, 4)),
    "gru_cell": (nn.GRUCell, (4, 6), {}, torch.zeros(3, 4)),
    "letters": (Letters, (), {}, torch.zeros(3, 5, dtype=torch.int64)),
    "lstm": (nn.LSTM, (10, 20, 2), {}, torch.zeros(5, 3, 10)),
    "lstm_cell": (nn.LSTMCell, (10, 20), {}, torch.zeros(3, 10)),
    "rnn": (nn.RNN, (4, 6), {}, torch.zeros(5, 3, 4)),
    "rnn_cell": (nn.RNNCell, (4, 6), {}, torch.zeros(3, 4)),
    "rates": (nn.LSTM, (2, 6), {}, torch.zeros(5, 3, 2)),
    "two": (TwoInTwoOut, (), {}, (torch.zeros(5, 3, 3), torch.zeros(5, 3, 2))),
    "verdict": (Verdict, (), {}, torch.zeros(3, 5, 2)),
}


@pytest.fixture(scope="session")
def modules() -> dict[str, nn.Module]:
    """What the served models were exported from."""
    torch.manual_seed(0)
    return {name: kind(*sizes, **flags).eval() for name, (kind, sizes, flags, _) in EXAMPLES.items()}


@pytest.fixture(scope="session")
def client_models(modules: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models")
    for name, (*_, example) in EXAMPLES.items():
        statecell_export.export(modules[name], example, name=name, out=out)
    return out


@pytest.fixture(scope="session")
def address(serve: Serve, client_models: Path) -> Iterator[str]:
    with serve(models=client_models) as server:
        yield server.address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client
