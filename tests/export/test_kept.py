"""States that forward keeps in self: in service each session has its own, and begins as a new module does."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from statecell_export import ModuleRefusedError, Report, export
from torch import Tensor, nn


class Tutorial(nn.Module):
    """A classifier's LSTM that goes on where it stopped, its state cut from the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 5, 2, batch_first=True), nn.Linear(5, 3)
        self.memory: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        y, (h, c) = self.rnn(x, self.memory)
        self.memory = h.detach(), c.detach()
        result: Tensor = self.head(y)
        return result


class Controller(nn.Module):
    """One step a call; the state is made from the first input's batch."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 6)
        self.hidden: list[Tensor] = []

    def forward(self, observation: Tensor) -> dict[str, Tensor]:
        if not self.hidden:
            self.hidden = [observation.new_zeros(observation.size(0), 6) for _ in range(2)]
        self.hidden = list(self.cell(observation, tuple(self.hidden)))
        return {"action": self.hidden[0].tanh()}


class MadeByTheFirstCall(nn.Module):
    """Has its attributes from its first call on, the one in a submodule too."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.body = nn.GRUCell(4, 6), nn.Module()

    def forward(self, x: Tensor) -> Tensor:
        h = self.h if hasattr(self, "h") else x.new_zeros(x.size(0), 6)
        total = getattr(self.body, "total", torch.zeros_like(h))
        after: Tensor = self.cell(x, h)
        self.h: Tensor = after
        self.body.total = total + after
        return after + total + after


class Leaky(nn.Module):
    """An average in a buffer, written in place, beside what a submodule keeps."""

    average: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = Controller()
        self.register_buffer("average", torch.zeros(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)["action"]
        self.average.mul_(0.5).add_(y)
        return y + self.average


class Causal(nn.Module):
    """A convolution over time, whose last inputs are kept for the next chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)
        self.gru = nn.GRU(4, 5, batch_first=True)
        self.seen: dict[str, Tensor | None] = {"past": None, "h": None}

    def forward(self, x: Tensor) -> Tensor:
        past, x = self.seen["past"], x.transpose(1, 2)
        if past is None:
            past = x.new_zeros(x.size(0), 4, 2)
        joined = torch.cat([past, x], 2)
        result: tuple[Tensor, Tensor] = self.gru(self.conv(joined).transpose(1, 2), self.seen["h"])
        self.seen = {"past": joined[:, :, -2:], "h": result[1]}
        return result[0]


class Watched(nn.Module):
    """What it keeps is for people to look at: no later call does."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True)
        self.attention: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gru(x)[0]
        self.attention = y.softmax(-1)
        return y


class Learned(nn.Module):
    """Begins with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.begin = nn.GRUCell(4, 6), nn.Parameter(torch.ones(6))
        self.h: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.h = self.cell(x, self.begin.expand(x.size(0), 6) if self.h is None else self.h)
        return self.h


class Counting(nn.Module):
    """Keeps a number, which no graph sees."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.calls = nn.GRU(4, 5, batch_first=True), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y: Tensor = self.gru(x)[0]
        return y / self.calls


class Warm(Tutorial):
    """Was used, and remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = torch.randn(2, 3, 5), torch.randn(2, 3, 5)


def served(report: Report, xs: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    """The first output of each call, the states carried on as a server does."""
    session = onnxruntime.InferenceSession(str(report.path / "model.onnx"))
    names = [output.name for output in session.get_outputs()]
    batch = xs[0].shape[0]
    states, results = {s.input: s.fresh(batch) for s in report.spec.states}, []
    for x in xs:
        got = dict(zip(names, session.run(names, {report.spec.inputs[0].name: x, **states}), strict=True))
        states = {s.input: got[s.output] for s in report.spec.states}
        results.append(got[report.spec.outputs[0].name])
    return results


CHUNKS = (1, 1, 3, 1, 2)


@pytest.mark.parametrize(
    ("make", "example", "batch", "states"),
    [
        (Tutorial, torch.randn(3, 6, 4), 2, 2),
        (Controller, torch.randn(3, 4), 2, 2),
        (MadeByTheFirstCall, torch.randn(3, 4), 2, 2),
        (Leaky, "x:float32[1,4]", 1, 3),
        (Causal, torch.randn(3, 6, 4), 2, 2),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_it_is_stepped_as_the_module_itself_goes_on(
    make: Callable[[], nn.Module], example: Any, batch: int, states: int, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    module = make().eval()
    untouched = copy.deepcopy(module)
    report = export(module, example, name="kept", out=tmp_path)
    assert report.spec.streamable, report.spec.reason
    assert len(report.spec.states) == states
    timed = report.spec.has_time
    xs = [torch.randn(batch, *([n] if timed else []), 4) for n in CHUNKS]
    for _ in range(2):  # a second session begins anew
        itself = copy.deepcopy(untouched)
        with torch.no_grad():
            results = [itself(x) for x in xs]
        want = [r["action"] if isinstance(r, dict) else r for r in results]
        for mine, theirs in zip(served(report, [x.numpy() for x in xs]), want, strict=True):
            np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-5)
    with torch.no_grad():  # and the export has left the module as it was
        first, fresh = module(xs[0]), untouched(xs[0])
    assert torch.equal(first["action"], fresh["action"]) if isinstance(first, dict) else torch.equal(first, fresh)


def test_what_no_later_call_looks_at_is_no_state(tmp_path: Path) -> None:
    report = export(Watched(), torch.randn(3, 6, 4), name="kept", out=tmp_path)
    assert [s.input for s in report.spec.states] == ["h_0"]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Learned, r"keeps a state in self\.h, which begins with zeros in a new session.*take it as an argument"),
        (Counting, "gives another result when called again"),
        (Warm, r"self\.memory, which holds various numbers.*set it to None or to one number everywhere before the export"),
    ],
)
def test_what_cannot_be_kept_for_each_session_is_refused(make: Callable[[], nn.Module], why: str, tmp_path: Path) -> None:
    example = torch.randn(3, 4) if make is Learned else torch.randn(3, 6, 4)
    with pytest.raises(ModuleRefusedError, match=why):
        export(make(), example, name="kept", out=tmp_path)
    assert not (tmp_path / "kept").exists()
