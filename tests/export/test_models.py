"""Models without nn.LSTM, served step by step, alone and beside other rows, against the module stepped as its user steps it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from statecell_export import ExampleError, ModuleRefusedError, Report, export
from torch import Tensor, nn

from tests.export import models

STEPS = 9


def zeros(*sizes: int) -> Tensor:
    return torch.zeros(*sizes)


@dataclass(frozen=True)
class Model:
    """what: in the words of the table in docs/export.md. example: of a batch of 3. x: one step's input of a batch. begin: the
    state with which its user begins, None where the module keeps it. step: one call by its user: (y, next state).
    """

    what: str
    make: Callable[[], nn.Module]
    example: Any
    x: Callable[[int], Tensor]
    begin: Callable[[int], Any]
    step: Callable[[Any, Tensor, Any], tuple[Tensor, Any]]
    one_row: bool = False


def returned(module: Any, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    return module(x, state)  # type: ignore[no-any-return]


def spread(module: Any, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    y, *state = module(x, *state)
    return y, state


def written(module: Any, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    return module(x, state).clone(), state


def kept(module: Any, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    return module(x), state


def denoised(module: Any, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    return models.Denoiser.forward(module, x, state)


def caches(batch: int) -> list[Tensor]:
    return [zeros(batch, 12, 4), zeros(batch, 12, 4)]


def fsmn(batch: int) -> list[Tensor]:
    return [zeros(batch, 6, 3), zeros(batch, 6, 3)]


MODELS = [
    Model(
        "an sLSTM step, its state returned",
        models.SLSTM,
        (torch.randn(3, 4), tuple(zeros(3, 8) for _ in range(4))),
        lambda batch: torch.randn(batch, 4),
        lambda batch: tuple(zeros(batch, 8) for _ in range(4)),
        returned,
    ),
    Model(
        "an sLSTM step, its state written in place",
        models.SLSTMInPlace,
        (torch.randn(3, 4), tuple(zeros(3, 8) for _ in range(4))),
        lambda batch: torch.randn(batch, 4),
        lambda batch: tuple(zeros(batch, 8) for _ in range(4)),
        written,
    ),
    Model(
        "a minGRU, its state given",
        models.MinGRU,
        (torch.randn(3, 5, 6), zeros(3, 1, 9)),
        lambda batch: torch.randn(batch, 1, 6),
        lambda batch: zeros(batch, 1, 9),
        returned,
    ),
    Model(
        "a minGRU step that returns its state twice",
        models.MinGRUStep,
        (torch.randn(3, 4), zeros(3, 8)),
        lambda batch: torch.randn(batch, 4),
        lambda batch: zeros(batch, 8),
        returned,
    ),
    Model(
        "a Mamba step, both caches returned",
        models.Mamba,
        (torch.randn(3, 1, 6), *caches(3)),
        lambda batch: torch.randn(batch, 1, 6),
        caches,
        spread,
    ),
    Model(
        "a Mamba step, both caches written in place and returned",
        models.MambaInPlace,
        (torch.randn(3, 1, 6), *caches(3)),
        lambda batch: torch.randn(batch, 1, 6),
        caches,
        spread,
    ),
    Model(
        "a Mamba step, its caches in a dict",
        models.MambaCache,
        (torch.randn(3, 1, 6), {"conv": zeros(3, 12, 4), "ssm": zeros(3, 12, 4)}),
        lambda batch: torch.randn(batch, 1, 6),
        lambda batch: dict(zip(("conv", "ssm"), caches(batch), strict=True)),
        written,
    ),
    Model(
        "AWD-LSTM, its hidden states in self",
        models.AWDLSTM,
        torch.randint(0, 20, (3, 5)),
        lambda batch: torch.randint(0, 20, (batch, 1)),
        lambda _: None,
        kept,
    ),
    Model(
        "a denoiser, its state by row",
        models.DenoiserByRow,
        (torch.randn(3, 5, 9, 2), zeros(3, 9, 6)),
        lambda batch: torch.randn(batch, 1, 9, 2),
        lambda batch: zeros(batch, 9, 6),
        returned,
    ),
    Model(
        "a denoiser, its state of all bins of one row",
        models.Denoiser,
        (torch.randn(1, 5, 9, 2), zeros(1, 9, 6)),
        lambda batch: torch.randn(batch, 1, 9, 2),
        lambda batch: zeros(1, 9 * batch, 6),
        returned,
        one_row=True,
    ),
    Model(
        "a denoiser, its state hidden",
        models.HiddenDenoiser,
        "spectrum:float32[1,seq_len,9,2]",
        lambda batch: torch.randn(batch, 1, 9, 2),
        lambda batch: zeros(1, 9 * batch, 6),
        denoised,
        one_row=True,
    ),
    Model(
        "a streaming FSMN, its caches returned",
        models.FSMN,
        (torch.randn(3, 7, 5), *fsmn(3)),
        lambda batch: torch.randn(batch, 1, 5),
        fsmn,
        spread,
    ),
    Model(
        "a streaming FSMN, its caches in a dict that it fills",
        models.FSMNOfDict,
        (torch.randn(3, 7, 5), dict(zip("01", fsmn(3), strict=True))),
        lambda batch: torch.randn(batch, 1, 5),
        lambda batch: dict(zip("01", fsmn(batch), strict=True)),
        written,
    ),
    Model(
        "a streaming FSMN, its caches in self",
        models.FSMNOfSelf,
        torch.randn(3, 7, 5),
        lambda batch: torch.randn(batch, 1, 5),
        lambda _: None,
        kept,
    ),
]


def served(report: Report, xs: list[Tensor]) -> list[np.ndarray[Any, Any]]:
    """The first output of each call of model.onnx, the states carried on by the names of its spec."""
    session = onnxruntime.InferenceSession(str(report.path / "model.onnx"))
    names = [output.name for output in session.get_outputs()]
    states, results = {s.input: s.fresh(xs[0].size(0)) for s in report.spec.states}, []
    for x in xs:
        got = dict(zip(names, session.run(names, {report.spec.inputs[0].name: x.numpy(), **states}), strict=True))
        states = {s.input: got[s.output] for s in report.spec.states}
        results.append(got[report.spec.outputs[0].name])
    return results


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.what)
def test_it_is_stepped_as_its_user_steps_it(model: Model, tmp_path: Path) -> None:
    torch.manual_seed(5)
    module = model.make().eval()
    report = export(module, model.example, name="m", out=tmp_path)
    assert report.spec.streamable, report.spec.reason
    assert set(report.artifacts) == {"model.onnx", "model.pt"}, report.notes
    assert report.spec.has_batch == (not model.one_row)
    for batch in (1,) if model.one_row else (1, 3):
        xs, state, want = [model.x(batch) for _ in range(STEPS)], model.begin(batch), []
        itself = model.make().eval()
        itself.load_state_dict(module.state_dict())
        with torch.no_grad():
            for x in xs:
                y, state = model.step(itself, x, state)
                want.append(y.numpy())
        for mine, theirs in zip(served(report, xs), want, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "example", "why"),
    [
        (models.HiddenDenoiser(), torch.randn(3, 5, 9, 2), "several rows for each of the batch, write 1 in place of batch"),
        (
            models.MinGRU(),
            torch.randn(3, 5, 6),
            "may be given prev_hidden, which the example leaves out.*put it into the example",
        ),
    ],
)
def test_what_it_does_not_know_it_asks_for(module: nn.Module, example: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises((ExampleError, ModuleRefusedError), match=why):
        export(module, example, name="m", out=tmp_path)
