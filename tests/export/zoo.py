"""What people have: a module and an example for each, and what the exporter is to make of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

States = tuple[Tensor, Tensor]
BOTH, SCRIPT_ONLY, REFUSED = "both", "TorchScript only", "refused"


@dataclass(frozen=True)
class Entry:
    """what: in the words of the table in docs/export.md. gives: BOTH, SCRIPT_ONLY or REFUSED."""

    what: str
    make: Callable[[], tuple[nn.Module, Any]]
    gives: str = BOTH
    streamable: bool = True


class Tagger(nn.Module):
    """Embedding, LSTM, head; state ignored altogether."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm, self.head = nn.Embedding(20, 6), nn.LSTM(6, 8, 2), nn.Linear(8, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        y: Tensor = self.head(self.lstm(self.embedding(tokens))[0])
        return y


class OwnZeros(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 8, 2, batch_first=True), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h_0 = torch.zeros(2, x.size(0), 8)
        c_0 = torch.zeros(2, x.size(0), 8)
        out, _ = self.lstm(x, (h_0, c_0))
        y: Tensor = self.head(out)
        return y


class LastStep(OwnZeros):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.lstm(x)[0][:, -1])
        return y


class Explicit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 8, proj_size=4), nn.Linear(4, 2)

    def forward(self, x: Tensor, state: States | None = None) -> tuple[Tensor, States]:
        y, state = self.lstm(x, state)
        return self.head(y), state


class InARow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second, self.head = nn.LSTM(3, 6), nn.LayerNorm(6), nn.GRU(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        between = torch.relu(self.norm(self.first(x)[0]))
        logits = self.head(self.second(between)[0])
        return {"probabilities": torch.softmax(logits, -1), "logits": logits}


class StackOfCells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.below, self.above, self.head = nn.LSTMCell(3, 6), nn.LSTMCell(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.below(x)
        h, _ = self.above(h)
        y: Tensor = self.head(h)
        return y


class LoopOverCell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(x.size(1), 6)
        ys = []
        for x_t in x:
            h, c = self.cell(x_t, (h, c))
            ys.append(self.head(h))
        return torch.stack(ys)


class ChangedState(LoopOverCell):
    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(x.size(1), 6)
        ys = []
        for x_t in x:
            h, c = self.cell(x_t, (torch.tanh(h), c))
            ys.append(self.head(h))
        return torch.stack(ys)


class LoopOverStack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.GRUCell(3, 6), nn.GRUCell(6, 5)])

    def forward(self, x: Tensor) -> Tensor:
        states: list[Tensor | None] = [None, None]
        ys = []
        for t in range(x.size(1)):
            y = x[:, t]
            for layer, cell in enumerate(self.cells):
                states[layer] = y = cell(y, states[layer])
            ys.append(y)
        return torch.stack(ys, 1)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 6, batch_first=True, bidirectional=True), nn.Linear(12, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.size(1))
        y: Tensor = self.head(out)
        return y


class Speaker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.speakers, self.lstm = nn.Embedding(4, 3), nn.LSTM(3, 6)

    def forward(self, x: Tensor, speaker: Tensor, rate: Tensor) -> Tensor:
        y: Tensor = self.lstm((x + self.speakers(speaker)) * rate)[0]
        return y


class LearnedState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.h_0 = nn.GRU(3, 6), nn.Parameter(torch.randn(1, 1, 6))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gru(x, self.h_0.repeat(1, x.size(1), 1))[0]
        return y


class StateFromSpeaker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.lstm = nn.Linear(4, 6), nn.LSTM(3, 6)

    def forward(self, x: Tensor, speaker: Tensor) -> Tensor:
        h_0 = torch.tanh(self.first(speaker))[None]
        y: Tensor = self.lstm(x, (h_0, torch.zeros_like(h_0)))[0]
        return y


class OwnCell(nn.Module):
    """A cell of the user's own, with an explicit state."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.h = nn.Linear(3, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.x(x) + self.h(h))
        return h.exp(), h


class SentenceTagger(nn.Module):
    """One sentence at a time, its length taken by len(), as a well-known tutorial has it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm, self.head = nn.Embedding(20, 6), nn.LSTM(6, 6), nn.Linear(6, 4)

    def forward(self, sentence: Tensor) -> Tensor:
        out, _ = self.lstm(self.embedding(sentence).view(len(sentence), 1, -1))
        return torch.log_softmax(self.head(out.view(len(sentence), -1)), 1)


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.lstm = nn.Conv1d(3, 4, 3, padding=1), nn.LSTM(4, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lstm(self.convolution(x.transpose(1, 2)).transpose(1, 2))[0]
        return y


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.query = nn.LSTM(3, 6, batch_first=True), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        attended: Tensor = torch.softmax(self.query(y) @ y.transpose(1, 2), -1) @ y
        return attended


class MultiHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.attention = nn.LSTM(3, 6, batch_first=True), nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        attended: Tensor = self.attention(y, y, y)[0]
        return attended


class Ponder(nn.Module):
    """How often it computes depends on its input."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(3, 6)

    def forward(self, x: Tensor, state: States) -> tuple[Tensor, States]:
        h, c = self.cell(x, state)
        ponders = 0
        while bool(h.abs().mean() > 0.05) and ponders < 20:
            h = h * 0.5
            ponders += 1
        return h * 2.0, (h, c)


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 6)
        self.state: States | None = None

    def forward(self, x: Tensor) -> Tensor:
        y, self.state = self.lstm(x, self.state)
        result: Tensor = y
        return result


class Spectral(nn.Module):
    """A recurrence over frequency inside, one over time outside."""

    def __init__(self) -> None:
        super().__init__()
        self.bins = nn.GRU(3, 4, batch_first=True, bidirectional=True)
        self.time = nn.LSTM(8, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.bins(x.flatten(0, 1))
        result: Tensor = self.time(y.mean(1).unflatten(0, x.shape[:2]))[0]
        return result


class RandomState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gru(x, torch.randn(1, x.size(1), 6))[0]
        return y


class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.lstm(x)[0].reshape(-1, 6))
        return y


class LoopThenAttention(LoopOverCell):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * torch.softmax(y.mean(-1, keepdim=True), 0)


X, BATCH_FIRST, STEP = torch.randn(6, 2, 3), torch.randn(2, 6, 3), torch.randn(2, 3)

ZOO = (
    Entry("nn.LSTM, any options", lambda: (nn.LSTM(3, 6, 2, batch_first=True), BATCH_FIRST)),
    Entry("nn.LSTM with proj_size", lambda: (nn.LSTM(3, 6, 2, proj_size=4), X)),
    Entry("nn.LSTM, bidirectional", lambda: (nn.LSTM(3, 6, 2, bidirectional=True), X), streamable=False),
    Entry("nn.LSTM with weight_norm", lambda: (parametrizations.weight_norm(nn.LSTM(3, 6), "weight_hh_l0"), X)),
    Entry("nn.LSTM without a batch axis", lambda: (nn.LSTM(3, 6), torch.randn(6, 3))),
    Entry("nn.LSTM, h_0 and c_0 given", lambda: (nn.LSTM(3, 6), (X, (torch.zeros(1, 2, 6), torch.zeros(1, 2, 6))))),
    Entry("nn.GRU", lambda: (nn.GRU(3, 6, 2, bias=False), X)),
    Entry("nn.RNN, tanh or relu", lambda: (nn.RNN(3, 6, nonlinearity="relu"), X)),
    Entry("nn.LSTMCell", lambda: (nn.LSTMCell(3, 6), STEP)),
    Entry("nn.GRUCell", lambda: (nn.GRUCell(3, 6), STEP)),
    Entry("nn.RNNCell", lambda: (nn.RNNCell(3, 6), STEP)),
    Entry("Embedding, LSTM, head; state ignored", lambda: (Tagger(), torch.randint(20, (6, 2)))),
    Entry("forward makes its own zero states and returns only `out`", lambda: (OwnZeros(), BATCH_FIRST)),
    Entry("forward takes and returns the state", lambda: (Explicit(), (X, (torch.zeros(1, 2, 4), torch.zeros(1, 2, 8))))),
    Entry("forward may be given a state, and returns it", lambda: (Explicit(), X)),
    Entry("several recurrent modules in a row, layers between, a dict of outputs", lambda: (InARow(), X)),
    Entry("a stack of cells, called once", lambda: (StackOfCells(), STEP), streamable=False),
    Entry("a Python loop over LSTMCell", lambda: (LoopOverCell(), X)),
    Entry("a Python loop over a stack of cells", lambda: (LoopOverStack(), BATCH_FIRST)),
    Entry("packed sequences with their lengths", lambda: (Packed(), (BATCH_FIRST, torch.tensor([6, 4]))), streamable=False),
    Entry("extra inputs: a speaker id, a rate", lambda: (Speaker(), (X, torch.tensor([0, 3]), torch.tensor(1.5)))),
    Entry("a learned initial state", lambda: (LearnedState(), X)),
    Entry("an initial state computed from another input", lambda: (StateFromSpeaker(), (X, torch.randn(2, 4)))),
    Entry("a cell of your own with an explicit state", lambda: (OwnCell(), (STEP, torch.zeros(2, 6)))),
    Entry("one sentence at a time, its length by len()", lambda: (SentenceTagger(), torch.tensor([1, 5, 19, 2]))),
    Entry("a head on the last step only", lambda: (LastStep(), BATCH_FIRST), streamable=False),
    Entry("a convolution over time", lambda: (Convolution(), BATCH_FIRST), streamable=False),
    Entry("attention over time", lambda: (Attention(), BATCH_FIRST), streamable=False),
    Entry("nn.MultiheadAttention over time", lambda: (MultiHead(), BATCH_FIRST), SCRIPT_ONLY, streamable=False),
    Entry(
        "control flow that depends on values, with an explicit state",
        lambda: (Ponder(), ("x:float32[1,3]", ("h:float32[1,6]", "c:float32[1,6]"))),
        SCRIPT_ONLY,
    ),
    Entry("state kept in self between calls", lambda: (Remembers(), X)),
    Entry("a GRU over the bins of a spectrum within each step", lambda: (Spectral(), "x:float32[batch,seq_len,7,3]")),
    Entry("a loop that changes the state between steps", lambda: (ChangedState(), X), REFUSED),
    Entry("an initial state from torch.randn", lambda: (RandomState(), X), REFUSED),
    Entry("time and batch flattened into one axis", lambda: (Flattened(), X), REFUSED),
    Entry("a loop over a cell, then attention over all its steps", lambda: (LoopThenAttention(), X), REFUSED),
    Entry("no recurrence at all", lambda: (nn.Linear(3, 2), X), REFUSED),
)
