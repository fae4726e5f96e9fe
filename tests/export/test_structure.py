"""Structure is read: where a state comes from and what a recurrence runs over, whatever the values of the example are."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from statecell_export import ExampleError, ExportError, ModuleRefusedError, Report, export
from statecell_export.quiet import quiet
from torch import Tensor, nn


def served(report: Report, feeds: list[dict[str, np.ndarray[Any, Any]]]) -> list[np.ndarray[Any, Any]]:
    """The first output of each call, the states carried on as a server does."""
    session = onnxruntime.InferenceSession(str(report.path / "model.onnx"))
    names, results = [output.name for output in session.get_outputs()], []
    states: dict[str, np.ndarray[Any, Any]] = {}
    for feed in feeds:
        if not states:
            states = {s.input: s.fresh(next(iter(feed.values())).shape[0]) for s in report.spec.states}
        got = dict(zip(names, session.run(names, feed | states), strict=True))
        states = {s.input: got[s.output] for s in report.spec.states}
        results.append(got[report.spec.outputs[0].name])
    return results


class Speaker(nn.Module):
    """Begins with what an id says; the id of the example says zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.who = nn.Embedding(4, 6, padding_idx=0)
        self.gru = nn.GRU(3, 6, batch_first=True)

    def forward(self, x: Tensor, who: Tensor) -> Tensor:
        y: Tensor = self.gru(x, self.who(who).unsqueeze(0))[0]
        return y


def test_an_initial_state_that_was_zero_on_the_example_is_still_one_that_is_computed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Speaker().eval()
    example = ["x:float32[batch,seq_len,3]", "who:int64[batch]<1"]  # 0 alone
    report = export(module, example, name="speaker", out=tmp_path)
    assert "started" in [s.input for s in report.spec.states]
    x, who = torch.randn(2, 5, 3), torch.tensor([1, 3])
    with torch.no_grad():
        want = module(x, who).numpy()
    got = served(report, [{"x": x[:, t : t + 1].numpy(), "who": who.numpy()} for t in range(5)])
    np.testing.assert_allclose(np.concatenate(got, 1), want, atol=1e-5)


class Spelled(nn.Module):
    """An LSTM over the characters of each word, another over the words."""

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.spelling = nn.Embedding(30, 4), nn.LSTM(4, 5, batch_first=True)
        self.words = nn.GRU(5, 6, batch_first=True)

    def forward(self, letters: Tensor) -> Tensor:
        batch, words, size = letters.shape
        spelt = self.spelling(self.letters(letters.reshape(batch * words, size)))[1][0][-1]
        y: Tensor = self.words(spelt.reshape(batch, words, 5))[0]
        return y


def test_what_runs_over_characters_begins_anew_in_each_word(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Spelled().eval()
    report = export(module, "letters:int64[batch,seq_len,7]<30", name="spelled", out=tmp_path)
    assert report.spec.streamable, report.spec.reason
    assert [s.input for s in report.spec.states] == ["h_0"]
    letters = torch.randint(30, (2, 6, 7))
    with torch.no_grad():
        want = module(letters).numpy()
    got = served(report, [{"letters": letters[:, t : t + 1].numpy()} for t in range(6)])
    np.testing.assert_allclose(np.concatenate(got, 1), want, atol=1e-5)


class Around(nn.Module):
    """Its state goes through a LayerNorm with a trained bias, and a recurrence over bands runs inside each step."""

    def __init__(self) -> None:
        super().__init__()
        self.bands, self.norm = nn.GRU(2, 4, batch_first=True), nn.LayerNorm(6)
        self.cell = nn.GRUCell(4, 6)
        with torch.no_grad():
            self.norm.bias.normal_()

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self.cell(self.bands(x)[1][-1], self.norm(h))
        return h.tanh(), h


def test_a_state_that_is_never_zero_when_it_is_used_is_a_state_and_what_runs_inside_a_step_is_none(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Around().eval()
    report = export(module, ["x:float32[batch,5,2]", "h:float32[batch,6]"], name="around", out=tmp_path)
    assert report.spec.streamable, report.spec.reason
    assert len(report.spec.states) == 1
    xs, h = torch.randn(7, 3, 5, 2), torch.zeros(3, 6)
    for x, got in zip(xs, served(report, [{"x": x.numpy()} for x in xs]), strict=True):
        with torch.no_grad():
            y, h = module(x, h)
        np.testing.assert_allclose(got, y.numpy(), atol=1e-5)


class Averaged(nn.Module):
    """Looks at the whole sentence, which one token alone does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(12, 4), nn.RNN(4, 5, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        e = self.embedding(tokens)
        y: Tensor = self.rnn(e - e.mean(1, keepdim=True))[0]
        return y


@pytest.mark.parametrize("example", ["tokens:int64[batch,seq_len]", "tokens:int64[batch,seq_len]<12", torch.zeros(3, 6).long()])
def test_whole_numbers_are_drawn_from_all_that_there_are(example: Any, tmp_path: Path) -> None:
    report = export(Averaged(), example, name="averaged", out=tmp_path)
    assert not report.spec.streamable
    assert "look" in report.spec.reason


@pytest.mark.parametrize("line", ["x:float32[seq_len,batch,3]<", "x:float32[seq_len,batch,3]2..1", "x:float32[batch,3] seven"])
def test_a_range_that_cannot_be_read_is_said(line: str, tmp_path: Path) -> None:
    with pytest.raises(ExampleError, match=r"0\.\.1|holds no value"):
        export(nn.LSTM(3, 4), line, name="m", out=tmp_path)


def test_a_logarithm_is_proven_within_the_range_that_its_line_says(tmp_path: Path) -> None:
    class Logarithm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.lstm(x.log())[0]
            return y

    with pytest.raises(ExportError, match="finite"):
        export(Logarithm(), "x:float32[seq_len,batch,3]", name="m", out=tmp_path)
    assert export(Logarithm(), "x:float32[seq_len,batch,3]0.5..2", name="m", out=tmp_path).spec.streamable


class Named(nn.Module):
    """Has inputs and outputs of the names that states have."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4)

    def forward(self, h_0: Tensor) -> dict[str, Tensor]:
        y = self.gru(h_0)[0]
        return {"h_n": y, "y": y.exp()}


def test_names_of_states_give_way(tmp_path: Path) -> None:
    report = export(Named(), "h_0:float32[seq_len,batch,3]", name="m", out=tmp_path)
    assert [(s.input, s.output) for s in report.spec.states] == [("state_h_0", "state_h_n")]
    assert [t.name for t in report.spec.outputs] == ["h_n", "y"]


def tied() -> nn.Module:
    rnn = nn.GRU(4, 4, 2)
    rnn.weight_hh_l1 = rnn.weight_hh_l0
    return rnn


def inside() -> nn.Module:
    module = Averaged()
    module.rnn = torch.compile(nn.RNN(4, 5, batch_first=True), backend="eager")  # type: ignore[assignment]
    return module


@pytest.mark.parametrize(
    ("make", "example"),
    [
        (tied, "x:float32[seq_len,batch,4]"),
        (inside, "tokens:int64[batch,seq_len]"),
        (lambda: torch.compile(Named(), backend="eager"), "h_0:float32[seq_len,batch,3]"),
    ],
    ids=["tied weights", "a compiled submodule", "a compiled module"],
)
def test_what_pytorch_made_of_a_module_is_undone(make: Any, example: str, tmp_path: Path) -> None:
    assert export(make(), example, name="m", out=tmp_path).proof.cases > 0


def test_torchscript_is_refused_with_what_to_export_in_its_place(tmp_path: Path) -> None:
    with quiet():
        scripted = torch.jit.trace(nn.LSTM(3, 4), torch.zeros(5, 2, 3))  # type: ignore[no-untyped-call]
    with pytest.raises(ModuleRefusedError, match="export the module that was scripted or traced"):
        export(scripted, "x:float32[seq_len,batch,3]", name="m", out=tmp_path)


def test_an_argument_that_the_example_forgets_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ExampleError, match=r'"h:float32\[batch,20\]" with its own sizes'):
        export(Around(), "x:float32[batch,5,2]", name="m", out=tmp_path)
