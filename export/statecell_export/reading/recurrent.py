"""PyTorch's recurrent modules: their states and their weights, one direction of one layer at a time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

Array = np.ndarray[Any, Any]
Layered = nn.RNNBase
Cell = nn.RNNCellBase
Recurrent = Layered | Cell
CLASSES: tuple[type[Recurrent], ...] = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)


@dataclass(frozen=True)
class Direction:
    """The weights of one direction of one layer, gates stacked along axis 0 in PyTorch's order."""

    w: Array  # [gates * hidden_size, input_size]
    r: Array  # [gates * hidden_size, proj_size or hidden_size]
    b_ih: Array | None  # [gates * hidden_size]
    b_hh: Array | None
    w_hr: Array | None = None  # [proj_size, hidden_size]


def is_bare(module: nn.Module) -> bool:
    """Whether `module` is one of PyTorch's own recurrent modules, not a user's module around or below one."""
    return type(module) in CLASSES


def kind(module: Recurrent) -> str:
    """LSTM, GRU or RNN: also the name of the ONNX operator."""
    for name, classes in {"LSTM": (nn.LSTM, nn.LSTMCell), "GRU": (nn.GRU, nn.GRUCell)}.items():
        if isinstance(module, classes):
            return name
    return "RNN"


def activation(module: Recurrent) -> str:
    """The ONNX name of an RNN's activation."""
    return "Relu" if str(getattr(module, "nonlinearity", getattr(module, "mode", ""))).lower().endswith("relu") else "Tanh"


def letters(module: Recurrent) -> tuple[str, ...]:
    """The names of its states: h, and for an LSTM c."""
    return ("h", "c") if kind(module) == "LSTM" else ("h",)


def layers(module: Recurrent) -> list[list[Direction]]:
    """Its weights as float32 arrays: [num_layers][num_directions]."""
    if isinstance(module, Cell):
        return [[_direction(module, "")]]
    suffixes = ("", "_reverse") if module.bidirectional else ("",)
    return [[_direction(module, f"_l{layer}{suffix}") for suffix in suffixes] for layer in range(module.num_layers)]


def _direction(module: Recurrent, suffix: str) -> Direction:
    def array(name: str) -> Array | None:
        weight = getattr(module, name + suffix, None)
        return weight.detach().to("cpu", torch.float32).numpy() if isinstance(weight, torch.Tensor) else None

    w, r = array("weight_ih"), array("weight_hh")
    assert w is not None
    assert r is not None
    return Direction(w, r, array("bias_ih"), array("bias_hh"), array("weight_hr"))
