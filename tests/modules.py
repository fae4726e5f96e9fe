"""The small real models that tests serve."""

import torch
from torch import nn


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
