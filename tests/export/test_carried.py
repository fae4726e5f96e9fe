"""Which states are carried on, and how: what is written, kept and moved, and what must be asked for or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from statecell_export import ModuleRefusedError, Report, export
from torch import Tensor, nn
from typer.testing import CliRunner

X, H = torch.randn(3, 4), torch.zeros(3, 6)


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.head = nn.Linear(10, 6), nn.Linear(6, 2)

    def new(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.w(torch.cat([x, h], -1)))

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self.new(x, h)
        return self.head(h), h


class Scratch(Cell):
    """Scales one of its inputs in place, which is no state."""

    def forward(self, x: Tensor, h: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        gain.mul_(0.5)
        return super().forward(x * gain, h)


class Delay(Cell):
    """A line of two delays: the next value of one is the other's last."""

    def forward(self, x: Tensor, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        return self.head(two), self.new(x, one), one


class Swapped(nn.Module):
    """Two caches, returned in another order than they are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.window = nn.Linear(4, 4), nn.Linear(4, 4), nn.Parameter(torch.randn(5, 1))

    def forward(self, x: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p = torch.cat([left[:, 1:], self.a(x)[:, None]], 1)
        q = torch.cat([right[:, 1:], self.b(p.mean(1))[:, None]], 1)
        return (p * self.window).sum(1) + (q * self.window).sum(1), q, p


class OtherOrder(Cell):
    """A dict of states, whose keys come back in another order."""

    def forward(self, x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        h = self.new(x, state["h"])
        c = torch.tanh(state["c"] + h)
        return self.head(h + c), {"c": c, "h": h}


class Cached(Cell):
    def forward(self, x: Tensor, cached_a: Tensor, cached_b: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        a = self.new(x, cached_a)
        b = self.new(x, cached_b) + a
        return {"y": self.head(b), "fresh_b": b, "fresh_a": a}


class Centered(Cell):
    """Each row is seen beside the mean of all."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x - x.mean(0, keepdim=True), h)


class Doubled(nn.Module):
    """Rows are mixed, and a lone row must be run with a copy of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rnn(x)[0]
        return y / y.sum(0, keepdim=True).abs().add(1)


class Reset(nn.Module):
    """Decides by the values of an input."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor], starts: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if torch.all(starts == 0):
            y, state = self.lstm(x[None], state)
        else:
            y, state = self.lstm(x[None], tuple(map((1 - starts).view(1, -1, 1).mul, state)))
        return y[0], state


class Ones(Cell):
    """Keeps a state that begins with ones."""

    def __init__(self) -> None:
        super().__init__()
        self.h = torch.ones(1, 6)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        y, self.h = super().forward(x, self.h.expand(x.size(0), 6))
        return y


class Sized(Cell):
    """Makes its state anew where the batch is another than it remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.batch, self.h = 1, torch.zeros(1, 6)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if x.size(0) != self.batch:
            self.batch, self.h = x.size(0), x.new_zeros(x.size(0), 6)
        y, self.h = super().forward(x, self.h)
        return y


class Raises(nn.Module):
    """Has a property that cannot be asked yet."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)

    @property
    def trainer(self) -> None:
        raise RuntimeError("there is no trainer")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lstm(x)[0]
        return y


class Lengths(Cell):
    """A loop over time, beside it the lengths as they were given."""

    def forward(self, x: Tensor, lengths: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        ys = []
        for step in x.unbind(1):
            h = self.new(step, h)
            ys.append(self.head(h))
        return torch.stack(ys, 1), lengths, h


def served(report: Report, feeds: list[dict[str, Tensor]], batch: int) -> list[np.ndarray[Any, Any]]:
    """The first output of each call, the states carried on by the names of the spec."""
    session = onnxruntime.InferenceSession(str(report.path / "model.onnx"))
    names = [output.name for output in session.get_outputs()]
    states, results = {s.input: s.fresh(batch) for s in report.spec.states}, []
    for feed in feeds:
        given = {name: tensor.numpy() for name, tensor in feed.items()}
        got = dict(zip(names, session.run(names, {**given, **states}), strict=True))
        states = {s.input: got[s.output] for s in report.spec.states}
        results.append(got[report.spec.outputs[0].name])
    return results


def same(report: Report, feeds: list[dict[str, Tensor]], batch: int, step: Callable[[dict[str, Tensor]], Any]) -> None:
    assert report.spec.streamable, report.spec.reason
    with torch.no_grad():
        want = [step({name: tensor.clone() for name, tensor in feed.items()}).numpy() for feed in feeds]
    for mine, theirs in zip(served(report, feeds, batch), want, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def xs(batch: int) -> list[dict[str, Tensor]]:
    return [{"x": torch.randn(batch, 4)} for _ in range(6)]


def test_an_input_that_is_changed_in_place_is_no_state(tmp_path: Path) -> None:
    module = Scratch().eval()
    report = export(module, (X, H, torch.rand(3, 4)), name="m", out=tmp_path)
    assert [t.name for t in report.spec.inputs] == ["x", "gain"]
    assert [s.input for s in report.spec.states] == ["h_0"]
    state = [torch.zeros(2, 6)]

    def step(feed: dict[str, Tensor]) -> Any:
        y, state[0] = module(feed["x"], state[0], feed["gain"])
        return y

    same(report, [feed | {"gain": torch.rand(2, 4)} for feed in xs(2)], 2, step)


def test_a_line_of_delays_is_asked_for(tmp_path: Path) -> None:
    module = Delay().eval()
    with pytest.raises(ModuleRefusedError, match="nothing tells which carries on which"):
        export(module, (X, H, H), name="m", out=tmp_path)
    report = export(module, (X, H, H), name="m", out=tmp_path, states=["one:1", "two:2"])
    state = [torch.zeros(2, 6), torch.zeros(2, 6)]

    def step(feed: dict[str, Tensor]) -> Any:
        y, *state[:] = module(feed["x"], *state)
        return y

    same(report, xs(2), 2, step)


def test_caches_are_told_by_what_they_hold(tmp_path: Path) -> None:
    module = Swapped().eval()
    report = export(module, (X, torch.zeros(3, 5, 4), torch.zeros(3, 5, 4)), name="m", out=tmp_path)
    state = [torch.zeros(2, 5, 4), torch.zeros(2, 5, 4)]

    def step(feed: dict[str, Tensor]) -> Any:
        y, q, p = module(feed["x"], *state)
        state[:] = p, q
        return y

    same(report, xs(2), 2, step)
    assert any("left" in line and "what it holds is in there" in line for line in report.assumptions)


def test_a_dict_of_states_is_read_by_its_keys(tmp_path: Path) -> None:
    module = OtherOrder().eval()
    report = export(module, (X, {"h": H, "c": H}), name="m", out=tmp_path)
    state = [{"h": torch.zeros(2, 6), "c": torch.zeros(2, 6)}]

    def step(feed: dict[str, Tensor]) -> Any:
        y, state[0] = module(feed["x"], state[0])
        return y

    same(report, xs(2), 2, step)


@pytest.mark.parametrize("states", [["cached_*:fresh_*"], ["cached_*=fresh_*"], ["cached_a:2", "cached_b:fresh_b"]])
def test_a_pattern_stands_for_several_states(states: list[str], tmp_path: Path) -> None:
    module = Cached().eval()
    report = export(module, (X, H, H), name="m", out=tmp_path, states=states)
    state = [torch.zeros(2, 6), torch.zeros(2, 6)]

    def step(feed: dict[str, Tensor]) -> Any:
        found = module(feed["x"], *state)
        state[:] = found["fresh_a"], found["fresh_b"]
        return found["y"]

    same(report, xs(2), 2, step)


def test_rows_that_mix_are_refused_and_one_row_is_served(tmp_path: Path) -> None:
    module = Centered().eval()
    with pytest.raises(ModuleRefusedError, match=r"mixes the rows of a batch.*write 1 in place of batch"):
        export(module, (X, H), name="m", out=tmp_path)
    with pytest.raises(ModuleRefusedError, match="mixes the rows of a batch"):
        export(Doubled(), "x:float32[batch,seq_len,4]", name="m", out=tmp_path)
    report = export(module, ("x:float32[1,4]", "h:float32[1,6]"), name="m", out=tmp_path)
    state = [torch.zeros(1, 6)]

    def step(feed: dict[str, Tensor]) -> Any:
        y, state[0] = module(feed["x"], state[0])
        return y

    same(report, xs(1), 1, step)


def test_what_decides_is_asked_for_and_may_be_a_constant(tmp_path: Path) -> None:
    module = Reset().eval()
    example = X, (torch.zeros(1, 3, 6), torch.zeros(1, 3, 6)), torch.zeros(3)
    with pytest.raises(ModuleRefusedError, match=r"decides by values.*constants=\{'starts': 0\}"):
        export(module, example, name="m", out=tmp_path)
    report = export(module, example, name="m", out=tmp_path, constants={"starts": 0})
    assert [t.name for t in report.spec.inputs] == ["x"]
    assert "input 'starts': always 0, and no input of the model" in report.assumptions
    state = [(torch.zeros(1, 2, 6), torch.zeros(1, 2, 6))]

    def step(feed: dict[str, Tensor]) -> Any:
        y, state[0] = module(feed["x"], state[0], torch.zeros(2))
        return y

    same(report, xs(2), 2, step)


@pytest.mark.parametrize(("make", "begin"), [(Ones, 1.0), (Sized, 0.0)])
def test_what_is_kept_begins_as_in_the_module(make: Callable[[], nn.Module], begin: float, tmp_path: Path) -> None:
    module = make().eval()
    report = export(module, X, name="m", out=tmp_path)
    assert [s.initial for s in report.spec.states] == [begin]
    itself = make().eval()
    itself.load_state_dict(module.state_dict())
    same(report, xs(2), 2, lambda feed: itself(feed["x"]))


def test_a_property_that_raises_is_not_asked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = export(Raises(), torch.randn(3, 5, 4), name="m", out=tmp_path)
    assert set(report.artifacts) == {"model.onnx", "model.pt"}
    assert capfd.readouterr().out == ""


def test_an_output_that_no_step_changes_does_not_hinder(tmp_path: Path) -> None:
    module = Lengths().eval()
    report = export(module, (torch.randn(3, 5, 4), torch.full((3,), 5), H), name="m", out=tmp_path)
    assert set(report.artifacts) == {"model.onnx", "model.pt"}
    state = [torch.zeros(2, 6)]

    def step(feed: dict[str, Tensor]) -> Any:
        y, _, state[0] = module(feed["x"], feed["lengths"], state[0])
        return y

    same(report, [{"x": torch.randn(2, 1, 4), "lengths": torch.ones(2, dtype=torch.int64)} for _ in range(6)], 2, step)


class Twice(nn.Module):
    """Returns its hidden state as its output as well."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 6)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, c = self.cell(x, (h, c))
        return h, h, c


def test_a_state_that_is_returned_twice_is_one(tmp_path: Path) -> None:
    module = Twice().eval()
    report = export(module, (X, H, H), name="m", out=tmp_path)
    state = [torch.zeros(2, 6), torch.zeros(2, 6)]

    def step(feed: dict[str, Tensor]) -> Any:
        y, *state[:] = module(feed["x"], *state)
        return y

    same(report, xs(2), 2, step)


class Gated(Cell):
    """Gives something else that has the shape of an input."""

    def forward(self, x: Tensor, h: Tensor, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        h = self.new(x, h)
        return self.head(h * gain), h, torch.sigmoid(h)


def test_what_only_has_the_shape_of_a_result_is_asked_for(tmp_path: Path) -> None:
    module = Gated().eval()
    with pytest.raises(ModuleRefusedError, match=r"takes gain and gives .*states=\['gain:2'\].*states=\['gain:'\] for inputs"):
        export(module, (X, H, torch.rand(3, 6)), name="m", out=tmp_path)
    report = export(module, (X, H, torch.rand(3, 6)), name="m", out=tmp_path, states=["h:1", "gain:"])
    assert [t.name for t in report.spec.inputs] == ["x", "gain"]
    state = [torch.zeros(2, 6)]

    def step(feed: dict[str, Tensor]) -> Any:
        y, state[0], _ = module(feed["x"], state[0], feed["gain"])
        return y

    same(report, [feed | {"gain": torch.rand(2, 6)} for feed in xs(2)], 2, step)


def test_a_logarithm_of_a_sigmoid_is_right_far_below_zero(tmp_path: Path) -> None:
    class Far(Raises):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.nn.functional.logsigmoid(60 * x) / 60)

    report = export(Far(), torch.randn(3, 5, 4), name="m", out=tmp_path)
    assert set(report.artifacts) == {"model.onnx", "model.pt"}, report.notes


def test_nothing_is_printed_where_a_part_cannot_be_expressed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Sorted(Raises):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).logcumsumexp(-1)

    report = export(Sorted(), torch.randn(3, 5, 4), name="m", out=tmp_path)
    assert set(report.artifacts) == {"model.onnx", "model.pt"} or "logcumsumexp" in str(report.notes)
    printed = capfd.readouterr()
    assert "graph(" not in printed.out + printed.err


def test_the_command_takes_constants(tmp_path: Path) -> None:
    from statecell_export.__main__ import app

    target, example = "tests.export.test_carried:reset_with_example", ["--name", "m", "--out", str(tmp_path)]
    ran = CliRunner().invoke(app, ["module", target, *example, "--constant", "starts=0"])
    assert ran.exit_code == 0, ran.output
    again = ["verify", str(tmp_path / "m"), "--module", target, "--constant", "starts=0"]
    assert CliRunner().invoke(app, again).exit_code == 0
    wrong = CliRunner().invoke(app, ["module", target, *example, "--constant", "nothing=0"])
    assert wrong.exit_code == 1


def reset_with_example() -> tuple[nn.Module, Any]:
    torch.manual_seed(1)
    return Reset(), (X, (torch.zeros(1, 3, 6), torch.zeros(1, 3, 6)), torch.zeros(3))
