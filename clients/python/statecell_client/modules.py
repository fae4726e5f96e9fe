"""PyTorch's recurrent modules, run by a server: the same call, the same shapes."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from statecell.spec import ModelSpec, StateSpec, TensorSpec

from statecell_client.arrays import Array, ArrayLike, Kind, to_array
from statecell_client.errors import InvalidRequest
from statecell_client.model import Model

Infer = Callable[[Model, Mapping[str, ArrayLike]], Awaitable[dict[str, Array]]]


@dataclass(frozen=True)
class Convention:
    """How a module of PyTorch is called."""

    name: str
    states: int
    """(h, c) as a tuple, or h alone."""
    time: bool
    """Whether it runs over a sequence, and gives its outputs beside the final states."""

    def check(self, spec: ModelSpec) -> None:
        """Raises InvalidRequest where the model cannot be called so."""
        if (len(spec.inputs), len(spec.outputs), len(spec.states), spec.has_time) != (1, 1, self.states, self.time):
            raise InvalidRequest(
                f"model {spec.name!r} cannot be called as {self.name}: its inputs, outputs and states are {len(spec.inputs)}, "
                f"{len(spec.outputs)} and {len(spec.states)}, with {'a' if spec.has_time else 'no'} time axis, "
                f"expected 1, 1, {self.states} and {'one' if self.time else 'none'}"
            )


LSTM = Convention("lstm", 2, True)
LSTM_CELL = Convention("lstm_cell", 2, False)
GRU = Convention("gru", 1, True)
GRU_CELL = Convention("gru_cell", 1, False)
RNN = Convention("rnn", 1, True)
RNN_CELL = Convention("rnn_cell", 1, False)


async def call(convention: Convention, model: Model, infer: Infer, x: ArrayLike, state: Any) -> Any:
    """`x` and the state through the model, batched or not as x is, in PyTorch's order of results."""
    spec = model.spec
    convention.check(spec)
    given: dict[str, ArrayLike] = {}
    if state is not None:
        states = tuple(state) if convention.states > 1 else (state,)
        if len(states) != convention.states:
            raise InvalidRequest(f"{convention.name} takes {convention.states} states, {len(states)} came")
        given = {s.input: value for s, value in zip(spec.states, states, strict=True)}
    kind = Kind.of([x, *given.values()])
    source, result = spec.inputs[0], spec.outputs[0]
    array = to_array(source.name, x, source.dtype)
    batched = array.ndim != len(source.shape) - 1
    values = {source.name: array if batched else _with_batch(array, source)}
    for s in spec.states:
        if s.input in given:
            array = to_array(s.input, given[s.input], s.dtype)
            values[s.input] = array if batched else _with_batch(array, s)
    outputs = await infer(model, values)
    finals = tuple(kind.give(outputs[s.output] if batched else _without_batch(outputs[s.output], s)) for s in spec.states)
    final = finals if convention.states > 1 else finals[0]
    if not convention.time:
        return final
    return kind.give(outputs[result.name] if batched else _without_batch(outputs[result.name], result)), final


def _with_batch(array: Array, tensor: TensorSpec | StateSpec) -> Array:
    axis = tensor.batch_axis
    return array if axis is None or array.ndim != len(tensor.shape) - 1 else np.expand_dims(array, axis)


def _without_batch(array: Array, tensor: TensorSpec | StateSpec) -> Array:
    axis = tensor.batch_axis
    return array if axis is None else array.take(0, axis)
