"""Picture: a session's state as the page draws it."""

import base64
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from statecell.spec import StateSpec
from statecell.tensor import Array

STATES = 8
"""Of a model, that are shown."""
ELEMENTS = 2048
"""Of a state, that are shown: of a larger one every second, third and so on."""


def picture(specs: Sequence[StateSpec], states: Sequence[Array], row: int) -> list[dict[str, Any]]:
    """Row `row` of the batch: per state its name, how its numbers lie (rows, columns), and they as float32 in base64.

    A state [layers, "batch", hidden] has a row a layer. `every` is the distance between the numbers that are shown.
    """
    return [_one(spec, state, row) for spec, state in zip(specs[:STATES], states[:STATES], strict=True)]


def _one(spec: StateSpec, state: Array, row: int) -> dict[str, Any]:
    axis = spec.batch_axis
    own = state if axis is None else state.take(min(row, state.shape[axis] - 1), axis)
    columns = own.shape[-1] if own.ndim else 1
    lines = max(prod(own.shape[:-1]), 1)
    every = -(-lines * columns // ELEMENTS)
    table = own.reshape(lines, columns)
    if every > 1:
        table = table[:: -(-lines // ELEMENTS)] if columns == 1 or lines > ELEMENTS else table
        table = table[:, :: -(-table.size // ELEMENTS)]
    numbers = np.ascontiguousarray(table, "<f4")
    return {
        "name": spec.input,
        "shape": list(spec.shape),
        "rows": numbers.shape[0],
        "columns": numbers.shape[1],
        "every": every,
        "data": base64.b64encode(numbers.tobytes()).decode(),
    }
