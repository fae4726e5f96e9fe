"""What recurrent.cu does, by NumPy: the same numbers in the same order."""

import ctypes

import numpy as np
from statecell.tensor import Array

from statecell_server.runtimes.recurrent_step import WIDTH, Step
from statecell_server.runtimes.stack import GATES


def step(cell: str, s: Step) -> None:
    """At once. The addresses are of the host's memory."""
    gates = GATES[cell]
    weights = _floats(s.weights, s.pieces * WIDTH * s.units * gates).reshape(-1, s.units, gates)[:, : s.hidden].swapaxes(1, 2)
    bias = _floats(s.bias, (gates + (cell == "GRU")) * s.units).reshape(-1, s.units)[:, : s.hidden]
    rows = np.arange(s.batch)
    sources = _slots(s.sources, s.batch) if s.sources else rows
    targets = _slots(s.targets, s.batch) if s.targets else rows
    h = _rows(s.h, sources, s.h_stride, s.hidden)
    factors = np.zeros((s.batch, s.pieces * WIDTH), np.float32)
    factors[:, : s.inputs] = _rows(s.x, rows, s.x_stride, s.inputs)
    factors[:, s.x_pieces * WIDTH :][:, : s.hidden] = h
    sums = [np.tile(bias[g], (s.batch, 1)) for g in range(len(bias))]
    for piece in range(s.pieces):
        of_piece = np.zeros((s.batch, gates, s.hidden), np.float32)
        for k in range(piece * WIDTH, (piece + 1) * WIDTH):
            # A product of two float32 is exact in float64, so that this rounds once, as a fused multiply-add does.
            of_piece = (factors[:, k, None, None].astype(np.float64) * weights[k] + of_piece).astype(np.float32)
        for g in range(gates):
            sums[3 if cell == "GRU" and g == 2 and piece >= s.x_pieces else g] += of_piece[:, g]
    c = _rows(s.c, sources, s.c_stride, s.hidden) if cell == "LSTM" else None
    h, c = finish(cell, sums, h, c, relu=bool(s.relu))
    _put(s.y, rows, s.y_stride, h)
    kept = targets >= 0
    if s.h_n:
        _put(s.h_n, targets[kept], s.h_n_stride, h[kept])
    if c is not None:
        _put(s.c_n, targets[kept], s.c_n_stride, c[kept])


def finish(cell: str, sums: list[Array], h: Array, c: Array | None, *, relu: bool) -> tuple[Array, Array | None]:
    """The next h and c, [batch, hidden_size]."""
    if c is not None:
        i, o, f, g = sums
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    if cell == "GRU":
        z, r, over_x, over_h = sums
        kept = sigmoid(z)
        return kept * h + (1 - kept) * np.tanh(sigmoid(r) * over_h + over_x), None
    return (np.maximum(sums[0], 0) if relu else np.tanh(sums[0])), None


def sigmoid(v: Array) -> Array:
    with np.errstate(over="ignore"):  # of exp, whose infinity gives the right 0
        return np.asarray(1 / (1 + np.exp(-v)))


def _floats(address: int, count: int) -> Array:
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))


def _slots(address: int, count: int) -> Array:
    return np.ctypeslib.as_array((ctypes.c_int64 * count).from_address(address))


def _rows(address: int, rows: Array, stride: int, size: int) -> Array:
    """A copy, [rows, size]."""
    return np.stack([_floats(address + 4 * int(row) * stride, size) for row in rows])


def _put(address: int, rows: Array, stride: int, values: Array) -> None:
    for row, value in zip(rows, values, strict=True):
        _floats(address + 4 * int(row) * stride, len(value))[...] = value
