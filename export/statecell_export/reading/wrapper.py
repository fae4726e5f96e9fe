"""Wrapper: what is put around a user's module to make its states arguments and results."""

from torch import nn


class Wrapper(nn.Module):
    """Around `module`, whose results come first among its own."""

    module: nn.Module
