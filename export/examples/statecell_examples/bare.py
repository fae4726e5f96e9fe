"""The bare modules. Their weights are random, from a seed."""

import torch
from torch import nn

INPUT_SIZE = 10
HIDDEN_SIZE = 20
NUM_LAYERS = 2


def lstm() -> nn.LSTM:
    """nn.LSTM(10, 20, 2): x [seq_len, batch, 10] -> out [seq_len, batch, 20], (h_n, c_n) each [2, batch, 20]."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.LSTM(INPUT_SIZE, HIDDEN_SIZE, NUM_LAYERS).eval()


def lstm_cell() -> nn.LSTMCell:
    """nn.LSTMCell(10, 20): x [batch, 10] -> (h_1, c_1) each [batch, 20]."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.LSTMCell(INPUT_SIZE, HIDDEN_SIZE).eval()
