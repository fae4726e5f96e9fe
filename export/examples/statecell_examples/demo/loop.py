"""The classic loop over nn.LSTMCell, and nn.LSTM, called remotely with PyTorch's own convention."""

from collections.abc import Callable

import torch
from statecell_client import Client
from torch import Tensor

from statecell_examples.bare import HIDDEN_SIZE, INPUT_SIZE, NUM_LAYERS, lstm, lstm_cell

State = tuple[Tensor, Tensor]
Cell = Callable[[Tensor, State], State]


def classic_loop(cell: Cell, x: Tensor, hx: Tensor, cx: Tensor) -> list[Tensor]:
    output = []
    for t in range(len(x)):
        hx, cx = cell(x[t], (hx, cx))
        output.append(hx)
    return [torch.stack(output), hx, cx]


def cell_difference(client: Client) -> float:
    """The largest difference between the loop over the remote cell and over PyTorch's, in outputs and last state."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, INPUT_SIZE, generator=generator)  # [seq_len, batch, input_size]
    hx, cx = torch.randn(2, 3, HIDDEN_SIZE, generator=generator)  # each [batch, hidden_size]
    with torch.no_grad():
        return _difference(classic_loop(client.lstm_cell("lstm_cell"), x, hx, cx), classic_loop(lstm_cell(), x, hx, cx))


def lstm_difference(client: Client) -> float:
    """The largest difference between the remote nn.LSTM and PyTorch's, in outputs and last state."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, INPUT_SIZE, generator=generator)  # [seq_len, batch, input_size]
    h_0, c_0 = torch.randn(2, NUM_LAYERS, 3, HIDDEN_SIZE, generator=generator)  # each [num_layers, batch, hidden_size]
    with torch.no_grad():
        out, (h_n, c_n) = client.lstm("lstm")(x, (h_0, c_0))
        expected_out, (expected_h_n, expected_c_n) = lstm()(x, (h_0, c_0))
    return _difference([out, h_n, c_n], [expected_out, expected_h_n, expected_c_n])


def _difference(remote: list[Tensor], local: list[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(remote, local, strict=True))
