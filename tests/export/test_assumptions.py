"""A report says what its proof rests on: what was drawn, and how each state was found."""

import json
from pathlib import Path

import torch
from statecell_export import export
from torch import Tensor, nn


class Tagger(nn.Module):
    """Tokens and a rate, its state hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(11, 4), nn.GRU(4, 5)

    def forward(self, tokens: Tensor, rate: Tensor) -> Tensor:
        y: Tensor = self.rnn(self.embedding(tokens) * rate)[0]
        return y


class Stepper(nn.Module):
    """A cell of its own, its state taken and returned."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(7, 4)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        new_h = torch.tanh(self.mix(torch.cat([x, h], 1)))
        return new_h * 2, new_h


class Keeper(nn.Module):
    """An LSTM that goes on from self.memory."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, 4)
        self.memory: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        y, self.memory = self.rnn(x, self.memory)
        result: Tensor = y
        return result


def test_report_says_what_was_drawn_for_each_input(tmp_path: Path) -> None:
    lines = ["tokens:int64[seq_len,batch]<11", "rate:float32[seq_len,batch,1]0.5..2"]
    report = export(Tagger(), lines, name="tagger", out=tmp_path)
    assert "input 'tokens': from 0 to 10" in report.assumptions
    assert "input 'rate': from 0.5 to 2" in report.assumptions
    assert "state 'h_0': that of 'rnn', begun with zeros" in report.assumptions
    assert any(line.startswith("run with inputs like the example's") for line in report.assumptions)
    assert json.loads((report.path / "report.json").read_text())["assumptions"] == list(report.assumptions)


def test_report_says_what_told_the_next_value_of_a_state(tmp_path: Path) -> None:
    example = (torch.randn(2, 3), torch.zeros(2, 4))
    found = export(Stepper(), example, name="found", out=tmp_path)
    assert "state 'h': carried on by result 1 of forward: by their names" in found.assumptions
    said = export(Stepper(), example, name="said", out=tmp_path, states=["h:1"])
    assert "state 'h': carried on by result 1 of forward, as the caller says" in said.assumptions


def test_report_says_which_attribute_a_state_was_kept_in(tmp_path: Path) -> None:
    report = export(Keeper(), torch.randn(6, 2, 3), name="keeper", out=tmp_path)
    assert "state 'memory_0': what forward leaves in self.memory, begun with zeros" in report.assumptions
    assert not any("as the caller says" in line for line in report.assumptions)
