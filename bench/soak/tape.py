"""Tape: inputs and the outputs that they must give, computed by ONNX Runtime alone."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from statecell.tensor import Array

STEPS = 64


class Tape(NamedTuple):
    """x: [STEPS, 1, input_size], y: [STEPS, 1, hidden_size], float32."""

    x: Array
    y: Array


def record(model: Path, count: int, seed: int) -> list[Tape]:
    """`count` tapes of an nn.LSTM's file, from the state of zeros. Exact: a row of a batch is bit-equal to the row alone."""
    ort_session = ort.InferenceSession(model.read_bytes(), providers=["CPUExecutionProvider"])
    shapes = {node.name: node.shape for node in ort_session.get_inputs()}
    layers, _, hidden = shapes["h_0"]
    rng = np.random.default_rng(seed)
    tapes = []
    for _ in range(count):
        zeros = np.zeros((layers, 1, hidden), np.float32)
        x = rng.standard_normal((STEPS, 1, shapes["x"][2]), np.float32)
        (y,) = ort_session.run(["y"], {"x": x, "h_0": zeros, "c_0": zeros})
        tapes.append(Tape(x, y))
    return tapes
