"""Any combination of options, bare or inside a user's module, is right at every seq_len and batch.

300 random configurations, each proven on the whole grid: about 30 seconds on two cores.
"""

import tempfile
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from statecell_export import export
from torch import Tensor, nn

CONFIGURATIONS = 300


class Around(nn.Module):
    """A user's module: a layer before, one behind, the state ignored or made of zeros."""

    def __init__(self, recurrent: nn.Module, inputs: int, outputs: int, *, zeros: bool) -> None:
        super().__init__()
        self.before, self.recurrent, self.behind = nn.Linear(3, inputs), recurrent, nn.Linear(outputs, 2)
        self.zeros = zeros

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu(self.before(x))
        states = self._zeros(features) if self.zeros else None
        result = self.recurrent(features, states)
        y = result if isinstance(result, Tensor) else result[0]
        scores: Tensor = self.behind(y)
        return scores

    def _zeros(self, x: Tensor) -> Any:
        cell = self.recurrent
        if isinstance(cell, nn.RNNCellBase):
            h = torch.zeros(x.size(0), cell.hidden_size)
            return (h, torch.zeros_like(h)) if isinstance(cell, nn.LSTMCell) else h
        assert isinstance(cell, nn.RNNBase)
        rows, layers = x.size(0 if cell.batch_first else 1), cell.num_layers * (2 if cell.bidirectional else 1)
        h = torch.zeros(layers, rows, cell.proj_size or cell.hidden_size)
        return (h, torch.zeros(layers, rows, cell.hidden_size)) if isinstance(cell, nn.LSTM) else h


@st.composite
def configurations(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A module and an example of a size that the grid does not have."""
    torch.manual_seed(draw(st.integers(0, 2**32 - 1)))
    inputs, hidden, bias = draw(st.integers(1, 12)), draw(st.integers(2, 16)), draw(st.booleans())
    kind = draw(st.sampled_from([nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell]))
    options: dict[str, Any] = {"bias": bias}
    if kind in (nn.RNN, nn.RNNCell):
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    outputs, batch_first = hidden, False
    if issubclass(kind, nn.RNNBase):
        layers = draw(st.integers(1, 3))
        batch_first, bidirectional = draw(st.booleans()), draw(st.booleans())
        options |= {"num_layers": layers, "batch_first": batch_first, "bidirectional": bidirectional}
        options["dropout"] = draw(st.sampled_from([0.0, 0.5])) if layers > 1 else 0.0
        if kind is nn.LSTM:
            options["proj_size"] = draw(st.integers(0, hidden - 1))
        outputs = (options.get("proj_size") or hidden) * (2 if bidirectional else 1)
    recurrent = kind(inputs, hidden, **options)
    module, width = recurrent, inputs
    if draw(st.booleans()):
        module, width = Around(recurrent, inputs, outputs, zeros=draw(st.booleans())), 3
    seq_len, batch = 6, 4
    size = (
        (batch, width)
        if issubclass(kind, nn.RNNCellBase)
        else (batch, seq_len, width)
        if batch_first
        else (seq_len, batch, width)
    )
    return module, torch.randn(size)


@settings(
    max_examples=CONFIGURATIONS,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
@given(configurations())
def test_any_configuration_is_exported_and_right(configuration: tuple[nn.Module, Tensor]) -> None:
    module, example = configuration
    recurrent = module.recurrent if isinstance(module, Around) else module
    with tempfile.TemporaryDirectory() as out:
        report = export(module, example, name="m", out=out)
    assert sorted(report.artifacts) == ["model.onnx", "model.pt"]
    silent = isinstance(module, Around) and isinstance(recurrent, nn.RNNCellBase)  # of whether it goes on from call to call
    assert report.spec.streamable == (not getattr(recurrent, "bidirectional", False) and not silent)
    assert [state.input for state in report.spec.states] == ["h_0", "c_0"][: 2 if "LSTM" in type(recurrent).__name__ else 1]
