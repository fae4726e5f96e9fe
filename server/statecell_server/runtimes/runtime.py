"""Runtime: one loaded model, whatever runs it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from statecell.spec import ModelSpec, SpecError, TensorSpec
from statecell.tensor import Array

from statecell_server.arena.arena import StateArena
from statecell_server.arena.host import HostArena
from statecell_server.arena.plan import Plan

Sides = tuple[Sequence[TensorSpec], Sequence[TensorSpec], Sequence[TensorSpec], Sequence[TensorSpec]]
"""Inputs, states, outputs, next states."""

LEAST_MEMORY = 256 << 20
"""Bytes that the inputs, outputs and states of one run may take, however small --state-memory is."""

PLANS = 1024
"""Plans kept at most; one costs a few hundred bytes beside the buffers that all share."""


class LoadError(Exception):
    """The operator's fault: the file is no model, has no spec, or its graph is not what its spec says."""


class DeviceError(LoadError):
    """The operator's to mend: the device cannot be used, and the message says what is missing."""


class DeviceLost(Exception):
    """The device broke while it was used: this process can run nothing on it any more, and what was in its memory is gone."""


class RunError(Exception):
    """The model cannot be run on this input; the message is the runtime's own."""


class Runtime(ABC):
    """Runs one artifact on one device. Not for two threads at once."""

    name: str
    device: str
    digest: str
    spec: ModelSpec
    note: str = ""
    """What to know of the device."""

    def __init__(self) -> None:
        self._buffers: dict[str, Array] = {}
        self._plans: dict[tuple[int, int], Plan] = {}

    def arena(self, memory: int, rows: int) -> StateArena:
        """Where the states of this runtime's sessions are; the one made last is in use. Raises as StateArena does."""
        return HostArena(self.spec.states, memory, rows, self.run)

    @abstractmethod
    def run(self, plan: Plan) -> None:
        """Fills the plan's outputs and next states. Raises RunError; DeviceLost, StateBudgetExceeded: the device's fault."""

    @abstractmethod
    def _bind(self, sides: Sides, arrays: Sequence[Sequence[Array]]) -> Any:
        """What `run` needs for these arrays."""

    def _sides(self) -> Sides:
        """The tensors of a run that are arrays of the host."""
        states = self.spec.states
        next_states = [TensorSpec(s.output, s.dtype, s.shape) for s in states]
        return self.spec.inputs, [s.tensor for s in states], self.spec.outputs, next_states

    def plan(self, seq_len: int, batch: int) -> Plan:
        """Arrays and bindings for runs of `seq_len` steps and `batch` rows."""
        plan = self._plans.get((seq_len, batch))
        if plan is None:
            plan = self._make(seq_len, batch)
            if len(self._plans) >= PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[seq_len, batch] = plan
        return plan

    def _make(self, seq_len: int, batch: int) -> Plan:
        sides = self._sides()
        arrays = [
            [self._array(f"{kind}:{t.name}", t.sized(seq_len=seq_len, batch=batch), t.dtype) for t in side]
            for kind, side in zip(("in", "in", "out", "out"), sides, strict=True)
        ]
        return Plan(batch, arrays[0], arrays[1], arrays[2], arrays[3], self._bind(sides, arrays))

    def _array(self, key: str, shape: tuple[int, ...], dtype: str) -> Array:
        """A view of `shape` on the buffer of this name."""
        size = int(np.prod(shape, dtype=np.int64))
        buffer = self._buffers.get(key)
        if buffer is None or buffer.size < size:
            # The plans so far are bound to the old buffer.
            self._plans.clear()
            buffer = self._buffers[key] = self._room(max(size, 2 * buffer.size if buffer is not None else 0), dtype)
        return buffer[:size].reshape(shape)

    def _room(self, size: int, dtype: str) -> Array:
        """[size] of zeros, memory of the host."""
        return np.zeros(size, dtype)


def most_rows(spec: ModelSpec, max_batch: int, memory: int) -> int:
    """Rows of a run at most: `max_batch`, or as many as fit into `memory` (bytes). Raises LoadError where too few do."""
    memory = max(memory, LEAST_MEMORY)
    fitting = memory // max(spec.row_bytes, 1)
    if fitting < spec.min_batch:
        raise LoadError(
            f"{spec.name} takes {spec.row_bytes} bytes a row and {spec.min_batch} rows at least, more than the {memory} that "
            "--state-memory gives a run"
        )
    return max(spec.min_batch, min(max_batch, fitting))


def read_spec(text: str | None, path: object) -> ModelSpec:
    """The spec that the artifact at `path` carries. Raises LoadError."""
    if text is None:
        raise LoadError(f"{path} carries no spec; give it one with: statecell-export adopt {path}")
    try:
        return ModelSpec.from_json(text)
    except SpecError as error:
        raise LoadError(f"{path}: {error}") from error
