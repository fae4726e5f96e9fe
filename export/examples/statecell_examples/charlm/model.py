"""The character language model, written as any PyTorch user would."""

from pathlib import Path

import torch
from torch import Tensor, nn

from statecell_examples.charlm.corpus import ALPHABET

WEIGHTS = Path(__file__).with_name("weights.pt")

State = tuple[Tensor, Tensor]


class CharLM(nn.Module):
    """`logits, state = CharLM()(x, state)`: what the next character is, after each of x.

    x: int64 [batch, seq_len], indices into ALPHABET. logits: float32 [batch, seq_len, len(ALPHABET)].
    state: (h, c), each [num_layers, batch, hidden_size], from the call before; None starts from zeros.
    """

    def __init__(self, embedding_dim: int = 32, hidden_size: int = 160, num_layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), embedding_dim)
        self.lstm = nn.LSTM(embedding_dim, hidden_size, num_layers, batch_first=True)
        self.linear = nn.Linear(hidden_size, len(ALPHABET))

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, state = self.lstm(self.embedding(x), state)  # [batch, seq_len, hidden_size]
        return self.linear(y), state


def load() -> CharLM:
    """The trained model in eval mode. `python -m statecell_examples.charlm.train` makes its weights."""
    model = CharLM()
    model.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return model.eval()
