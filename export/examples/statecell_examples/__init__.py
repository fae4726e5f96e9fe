"""The example models: `module, x = EXAMPLES["charlm"]()`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from statecell_examples import bare, charlm, forecast

__all__ = ["EXAMPLES"]

EXAMPLES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "charlm": lambda: (charlm.load(), torch.from_numpy(charlm.encode("It is a truth.")).view(2, 7)),
    "forecast": lambda: (forecast.load(), torch.from_numpy(forecast.Series.read().change[:14]).view(2, 7, 1)),
    "lstm": lambda: (bare.lstm(), torch.linspace(-1, 1, 5 * 3 * 10).view(5, 3, 10)),
    "lstm_cell": lambda: (bare.lstm_cell(), torch.linspace(-1, 1, 3 * 10).view(3, 10)),
}
"""By name, a factory of the trained module in eval mode and an example input. All axes but the forecaster's one feature
are longer than one, for a tracer takes a size of one for a constant."""
