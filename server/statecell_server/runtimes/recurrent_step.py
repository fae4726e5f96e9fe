"""Step: what the kernels of recurrent.cu are told, and the weights as they read them."""

import ctypes

import numpy as np
from statecell.tensor import Array

from statecell_server.runtimes.stack import GATES, Layer

WIDTH = 32
"""Columns of a piece."""


class Step(ctypes.Structure):
    """One time step of a layer. Addresses, distances between rows in numbers, and sizes: see recurrent.cu."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("weights", "bias", "x", "h", "c", "sources", "y", "h_n", "c_n", "targets")),
        *((f"{name}_stride", ctypes.c_longlong) for name in ("x", "h", "c", "y", "h_n", "c_n")),
        *((name, ctypes.c_int) for name in ("batch", "inputs", "hidden", "units", "x_pieces", "pieces", "relu")),
    )


def pieces(layer: Layer) -> tuple[int, int]:
    """Of x, and of x and h."""
    over_x, over_h = (-(-int(array.shape[1]) // WIDTH) for array in (layer.w, layer.r))
    return over_x, over_x + over_h


def units(layer: Layer) -> int:
    """hidden_size, filled up to whole pieces."""
    return -(-layer.hidden // WIDTH) * WIDTH


def packed(layer: Layer) -> tuple[Array, Array]:
    """(weights [pieces * 32, units, gates], bias [gates, units]; a GRU has a fourth: the recurrent one of its last gate)."""
    gates, hidden, room = GATES[layer.cell], layer.hidden, units(layer)
    over_x, both = pieces(layer)
    weights = np.zeros((both * WIDTH, room, gates), np.float32)
    for array, begin in ((layer.w, 0), (layer.r, over_x * WIDTH)):
        weights[begin : begin + array.shape[1], :hidden] = array.reshape(gates, hidden, -1).T
    of_x, of_h = layer.b.reshape(2, gates, hidden)
    bias = np.zeros((gates + (layer.cell == "GRU"), room), np.float32)
    bias[:gates, :hidden] = of_x + of_h
    if layer.cell == "GRU":
        bias[2, :hidden], bias[3, :hidden] = of_x[2], of_h[2]
    return weights, bias
