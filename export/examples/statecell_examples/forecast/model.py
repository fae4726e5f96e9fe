"""The forecaster, written as any PyTorch user would: it makes its own zero states and keeps the last ones to itself."""

from pathlib import Path

import torch
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("weights.pt")

TYPICAL_CHANGE = 0.5
"""ppm. About the standard deviation of a weekly change: dividing by it standardises the input."""


class Forecaster(nn.Module):
    """`Forecaster()(x)`: after each weekly change of CO2, the change that the next week will bring.

    x: float32 [batch, seq_len, 1] and the prediction, of the same shape, are in ppm a week. Changes have no trend to
    extrapolate, where the concentration itself leaves the range of the training data within a year; the forecast
    of the concentration is the last observation plus the prediction.
    """

    def __init__(self, hidden_size: int = 32, num_layers: int = 2) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.lstm = nn.LSTM(1, hidden_size, num_layers, batch_first=True)
        self.linear = nn.Linear(hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        h_0 = torch.zeros(self.num_layers, x.size(0), self.hidden_size)
        c_0 = torch.zeros(self.num_layers, x.size(0), self.hidden_size)
        y, _ = self.lstm(x / TYPICAL_CHANGE, (h_0, c_0))  # [batch, seq_len, hidden_size]
        prediction: Tensor = self.linear(y) * TYPICAL_CHANGE
        return prediction


def load() -> Forecaster:
    """The trained model in eval mode. `python -m statecell_examples.forecast.train` makes its weights."""
    model = Forecaster()
    model.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return model.eval()
