"""How a model's inputs and outputs lie: time and batch axes put in and taken out, shapes checked before anything is sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from statecell.spec import BATCH, SEQ_LEN, ModelSpec, TensorSpec
from statecell.tensor import pack, unpack
from statecell.v1 import tensor_pb2

from statecell_client.arrays import Array, ArrayLike, Kind, to_array
from statecell_client.errors import EmptyTensor, InvalidRequest, ShapeMismatch


@dataclass(frozen=True)
class Form:
    """How the caller gave an input, and so how its answer is given back."""

    kind: Kind
    rows: bool
    """Whether it had a batch axis."""


@dataclass(frozen=True)
class Inputs:
    """One message's inputs in the model's own layout."""

    arrays: dict[str, Array]
    steps: int
    """Time steps in it."""
    forms: tuple[Form, ...]
    """One a time step where each was given by itself, otherwise one."""

    def pack(self) -> list[tensor_pb2.Tensor]:
        return [pack(name, array) for name, array in self.arrays.items()]


@dataclass(frozen=True)
class Layout:
    """A session's layout: the model's, with `batch` rows."""

    spec: ModelSpec
    batch: int = 1

    @property
    def stacks(self) -> bool:
        """Whether several time steps make one message and come apart again: every input and output has a time axis."""
        return all(t.time_axis is not None for t in (*self.spec.inputs, *self.spec.outputs))

    @property
    def step_bytes(self) -> int:
        """Bytes of one time step's inputs and outputs."""
        tensors = (*self.spec.inputs, *self.spec.outputs)
        return sum(prod(t.sized(batch=self.batch)) * np.dtype(t.dtype).itemsize for t in tensors)

    def step(self, x: ArrayLike, named: Mapping[str, ArrayLike]) -> Inputs:
        """One time step, given without a time axis and, where the session has one row, with or without a batch axis."""
        values = bind(self.spec, x, named)
        arrays, rows = {}, set()
        for tensor in self.spec.inputs:
            array = to_array(tensor.name, values[tensor.name], tensor.dtype)
            axes = [axis for axis in tensor.shape if axis != SEQ_LEN]
            row = [axis for axis in axes if axis != BATCH]
            if BATCH in axes and array.ndim == len(row) and self.batch == 1:
                rows.add(False)
                _conform(tensor.name, array, row, {}, "one time step")
            else:
                rows.update({True} if BATCH in axes else ())
                _conform(tensor.name, array, axes, {BATCH: self.batch}, "one time step")
            # A copy: a source may fill the same buffer again before this one is sent.
            arrays[tensor.name] = np.array(array).reshape(tensor.sized(batch=self.batch))
        if len(rows) > 1:
            raise ShapeMismatch("some inputs have a batch axis and some have none; give it to all or to none")
        return Inputs(arrays, 1, (Form(Kind.of(values.values()), rows.pop() if rows else self.batch > 1),))

    def run(self, x: ArrayLike, named: Mapping[str, ArrayLike]) -> Inputs:
        """Any number of time steps in the model's own layout."""
        values = bind(self.spec, x, named)
        sizes = {BATCH: self.batch}
        arrays = conform(self.spec.inputs, values, sizes)
        return Inputs(arrays, sizes.get(SEQ_LEN, 1), (Form(Kind.of(values.values()), True),))

    def cut(self, inputs: Inputs, steps: int) -> list[Inputs]:
        """`inputs` in pieces of at most `steps` time steps; whole where they do not come apart."""
        if not self.stacks or inputs.steps <= steps:
            return [inputs]
        return [
            Inputs(
                {t.name: _slice(inputs.arrays[t.name], t, start, start + steps) for t in self.spec.inputs},
                min(steps, inputs.steps - start),
                inputs.forms,
            )
            for start in range(0, inputs.steps, steps)
        ]

    def stack(self, several: Sequence[Inputs]) -> Inputs:
        """Several time steps as one message. Only where the layout stacks."""
        if len(several) == 1:
            return several[0]
        arrays = {t.name: np.concatenate([inputs.arrays[t.name] for inputs in several], _time(t)) for t in self.spec.inputs}
        return Inputs(arrays, len(several), tuple(form for inputs in several for form in inputs.forms))

    def outputs(self, tensors: Sequence[tensor_pb2.Tensor]) -> dict[str, Array]:
        """The model's outputs by name, read-only."""
        arrays = {tensor.name: unpack(tensor) for tensor in tensors}
        return {t.name: arrays[t.name] for t in self.spec.outputs}

    def step_answers(self, outputs: dict[str, Array], inputs: Inputs) -> list[Any]:
        """What each time step of a message gave, laid out as its input was: no time axis, a batch axis if it had one."""
        answers = []
        for step, form in enumerate(inputs.forms):
            answer = {}
            for t in self.spec.outputs:
                taken = {SEQ_LEN: step} if form.rows else {SEQ_LEN: step, BATCH: 0}
                index = tuple(taken.get(axis, slice(None)) if isinstance(axis, str) else slice(None) for axis in t.shape)
                answer[t.name] = form.kind.give(outputs[t.name][index])
            answers.append(_alone(answer))
        return answers

    def run_answer(self, pieces: Sequence[dict[str, Array]], inputs: Inputs) -> Any:
        """The outputs of consecutive messages as those of one, in the model's own layout."""
        (form,) = inputs.forms
        whole = pieces[0]
        if len(pieces) > 1:
            whole = {t.name: np.concatenate([piece[t.name] for piece in pieces], _time(t)) for t in self.spec.outputs}
        return _alone({name: form.kind.give(array) for name, array in whole.items()})


def bind(spec: ModelSpec, x: ArrayLike, named: Mapping[str, ArrayLike]) -> dict[str, ArrayLike]:
    """The inputs by name: the one positional, or keywords. Raises InvalidRequest."""
    names = [t.name for t in spec.inputs]
    given = dict(named)
    if x is not None:
        if len(names) > 1:
            raise InvalidRequest(f"model {spec.name!r} has the inputs {', '.join(names)}; give each by its name")
        if named:
            raise InvalidRequest(
                f"model {spec.name!r} has one input; it was given without a name and {', '.join(named)} besides"
            )
        given = {names[0]: x}
    check_names(spec, given, names)
    return given


def check_count(name: str, value: object, least: int = 1) -> None:
    """Raises InvalidRequest for what is no whole number, or too small: on the wire 0 stands for the usual."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise InvalidRequest(f"{name} is {value!r}, expected {least} or more", metadata={"field": name})


def check_names(spec: ModelSpec, given: Mapping[str, ArrayLike], expected: Sequence[str]) -> None:
    """Raises InvalidRequest where a name is missing or unknown."""
    for name in given:
        if name not in expected:
            raise InvalidRequest(f"model {spec.name!r} has no {name!r}, expected {', '.join(expected)}")
    for name in expected:
        if name not in given:
            raise InvalidRequest(f"model {spec.name!r} needs {name!r}, which was not given")


def conform(tensors: Sequence[TensorSpec], values: Mapping[str, ArrayLike], sizes: dict[str, int]) -> dict[str, Array]:
    """The values as arrays of the tensors' dtypes and shapes; `sizes` binds "batch" and "seq_len" and learns those unbound."""
    arrays = {}
    for tensor in tensors:
        arrays[tensor.name] = to_array(tensor.name, values[tensor.name], tensor.dtype)
        _conform(tensor.name, arrays[tensor.name], tensor.shape, sizes, "the model's layout")
    return arrays


def _conform(name: str, array: Array, axes: Sequence[int | str], sizes: dict[str, int], what: str) -> None:
    if array.ndim == len(axes):
        wanted = [
            sizes.setdefault(axis, size) if isinstance(axis, str) else axis
            for axis, size in zip(axes, array.shape, strict=True)
        ]
        if 0 in array.shape:
            raise EmptyTensor(f"{name!r} has shape {list(array.shape)}, an axis of size 0", metadata={"field": name})
        if list(array.shape) == wanted:
            return
    shown = ", ".join(f"{axis}={sizes[axis]}" if isinstance(axis, str) and axis in sizes else str(axis) for axis in axes)
    raise ShapeMismatch(
        f"{name!r} has shape {list(array.shape)}, expected [{shown}], {what}",
        metadata={"field": name, "got": str(list(array.shape)), "expected": f"[{shown}]"},
    )


def _time(tensor: TensorSpec) -> int:
    axis = tensor.time_axis
    assert axis is not None, tensor
    return axis


def _slice(array: Array, tensor: TensorSpec, start: int, stop: int) -> Array:
    return array[(slice(None),) * _time(tensor) + (slice(start, stop),)]


def _alone(answers: dict[str, Any]) -> Any:
    """The bare array where there is one output."""
    return next(iter(answers.values())) if len(answers) == 1 else answers
