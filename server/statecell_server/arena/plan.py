"""Plan: one run of a model, laid out before it is made."""

from dataclasses import dataclass
from typing import Any

from statecell.tensor import Array


@dataclass(frozen=True)
class Plan:
    """One (seq_len, batch): arrays to fill, a call, arrays to read. The arrays are shared by all plans of a Runtime."""

    batch: int
    inputs: list[Array]
    states: list[Array]
    outputs: list[Array]
    next_states: list[Array]
    bound: Any  # what the runtime needs to make the call
