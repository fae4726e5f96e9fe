"""Inputs: a request's arrays, checked against ModelSpec before ONNX Runtime can see them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from statecell.spec import BATCH, SEQ_LEN, ModelSpec, StateSpec, TensorSpec
from statecell.tensor import Array

from statecell_server.errors import DtypeMismatch, EmptyTensor, InvalidRequest, NonFiniteInput, ShapeMismatch


class Inputs(NamedTuple):
    """One call: an array for each of the spec's inputs, in its order."""

    arrays: list[Array]
    seq_len: int
    rows: int
    shared: tuple[bytes, ...] = ()  # the inputs that have no batch axis: only calls that agree on them can share a run

    def take(self, spec: ModelSpec, rows: Sequence[int]) -> "Inputs":
        """These rows only."""
        axes = [t.batch_axis for t in spec.inputs]
        arrays = [a if x is None else a.take(rows, axis=x) for a, x in zip(self.arrays, axes, strict=True)]
        return Inputs(arrays, self.seq_len, len(rows), self.shared)


class InputCheck:
    """`InputCheck(spec)(tensors, rows)`: the Inputs of a call, or what is wrong with them."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._names = [t.name for t in spec.inputs]
        self._single = None
        if len(spec.inputs) == 1 and (batch_axis := spec.inputs[0].batch_axis) is not None:
            (tensor,) = spec.inputs
            fixed = [(axis, size) for axis, size in enumerate(tensor.shape) if isinstance(size, int)]
            self._single = (("", tensor.name), np.dtype(tensor.dtype), len(tensor.shape), batch_axis, tensor.time_axis, fixed)

    def __call__(self, tensors: Mapping[str, Array], rows: int | None) -> Inputs:
        """A call of `rows` rows (None: as many as x has).

        Raises InvalidRequest, DtypeMismatch, ShapeMismatch, EmptyTensor. NaN and infinity are for the executor, who looks at
        a whole batch at once.
        """
        if self._single is not None and len(tensors) == 1:
            # The common case in a fraction of the time: one input with a batch axis, all as it should be.
            names, dtype, axes, batch_axis, time_axis, fixed = self._single
            [(name, array)] = tensors.items()
            shape = array.shape
            if len(shape) == axes and shape[batch_axis] == (rows or shape[batch_axis]) and array.dtype == dtype and array.size:
                for axis, size in fixed:
                    if shape[axis] != size:
                        break
                else:
                    if name in names:
                        return Inputs([array], 1 if time_axis is None else shape[time_axis], shape[batch_axis])
        return self._any(tensors, rows)

    def _any(self, tensors: Mapping[str, Array], rows: int | None) -> Inputs:
        if len(self._names) == 1 and list(tensors) == [""]:
            tensors = {self._names[0]: tensors[""]}
        _check_names("input", self._names, tensors)
        symbols: dict[str, int] = {} if rows is None else {BATCH: rows}
        arrays = [tensors[name] for name in self._names]
        for tensor, array in zip(self._spec.inputs, arrays, strict=True):
            _check_tensor(tensor, array, symbols)
        shared = tuple(a.tobytes() for t, a in zip(self._spec.inputs, arrays, strict=True) if t.batch_axis is None)
        return Inputs(arrays, symbols.get(SEQ_LEN, 1), symbols.get(BATCH, 1), shared)


def check_states(spec: ModelSpec, tensors: Mapping[str, Array], rows: int, *, finite: bool = True) -> list[Array]:
    """An array for each of the spec's states, of `rows` rows. Raises as InputCheck does, and where `finite`, NonFiniteInput."""
    _check_names("state", [s.input for s in spec.states], tensors)
    arrays = [tensors[s.input] for s in spec.states]
    for state, array in zip(spec.states, arrays, strict=True):
        _check_tensor(state, array, {BATCH: rows})
        if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise NonFiniteInput(f"{state.input} has NaN or infinity, expected finite numbers", field=state.input)
    return arrays


def check_outputs(names: Iterable[str], known: Sequence[str]) -> None:
    """Raises InvalidRequest where an output is asked for that there is not."""
    for name in names:
        if name not in known:
            raise InvalidRequest(f"there is no output {name!r}; there are {', '.join(known)}", field=name)


def split_states(spec: ModelSpec, tensors: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """(inputs, states) of a call that may carry both."""
    names = {s.input for s in spec.states}
    return (
        {name: array for name, array in tensors.items() if name not in names},
        {name: array for name, array in tensors.items() if name in names},
    )


def _check_names(kind: str, expected: Sequence[str], tensors: Mapping[str, Array]) -> None:
    for name in tensors:
        if name not in expected:
            raise InvalidRequest(f"there is no {kind} {name!r}; the model's {kind}s are {', '.join(expected)}", field=name)
    for name in expected:
        if name not in tensors:
            raise InvalidRequest(f"{kind} {name!r} is missing; the model's {kind}s are {', '.join(expected)}", field=name)


def _check_tensor(spec: TensorSpec | StateSpec, array: Array, symbols: dict[str, int]) -> None:
    """Checks one array; adds the sizes of the symbols that it is the first to show."""
    name = spec.name if isinstance(spec, TensorSpec) else spec.input
    if array.dtype.name != spec.dtype:
        raise DtypeMismatch(
            f"{name} is {array.dtype.name}, expected {spec.dtype}", field=name, got=array.dtype.name, expected=spec.dtype
        )
    if array.size == 0:
        raise EmptyTensor(
            f"{name} has shape {list(array.shape)}: every axis must be at least 1", field=name, got=list(array.shape)
        )
    fits = len(array.shape) == len(spec.shape)
    if fits:
        for size, want in zip(array.shape, spec.shape, strict=True):
            if size != (symbols.setdefault(want, size) if isinstance(want, str) else want):
                fits = False
    if not fits:
        expected = [f"{size}={symbols[size]}" if size in symbols else size for size in spec.shape]
        raise ShapeMismatch(
            f"{name} has shape {list(array.shape)}, expected [{', '.join(map(str, expected))}]",
            field=name,
            got=list(array.shape),
            expected=expected,
        )
