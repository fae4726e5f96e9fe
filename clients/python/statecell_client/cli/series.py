"""What a file holds as a model's inputs: .csv, .tsv, .npy and .npz."""

import io
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from statecell.spec import BATCH, SEQ_LEN, ModelSpec, TensorSpec

from statecell_client.arrays import Array
from statecell_client.cli import table
from statecell_client.cli.table import Columns

Series = dict[str, Array]
"""By input name; each entry of the first axis is one time step."""


def read(path: Path, spec: ModelSpec, columns: Columns) -> Series:
    """The file's time steps. Raises ValueError where it does not hold what the model takes, OSError where it cannot be read.

    .npy has the only input, .npz an array for each input by its name. .csv has a line for each time step, with or without a
    line of titles first, and in its columns the features of all inputs in the spec's order.
    """
    series = _split(path, spec, columns) if path.suffix in table.ENDINGS else _arrays(path, spec)
    names = [t.name for t in spec.inputs]
    if sorted(series) != sorted(names):
        raise ValueError(f"{path} holds {', '.join(series) or 'nothing'}; model {spec.name!r} takes {', '.join(names)}")
    lengths = {name: len(array) if array.ndim else 0 for name, array in series.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        told = ", ".join(f"{length} of {name!r}" for name, length in lengths.items())
        raise ValueError(f"{path} has time steps: {told}; expected one or more along the first axis, the same for each input")
    return series


def whole(path: Path, spec: ModelSpec, columns: Columns) -> dict[str, Array]:
    """The file as one call's inputs, in the model's own layout; an array without the batch axis is one row.

    .npz may hold the initial states as well. The lines of a .csv are the time steps of one row; of a model without a time axis,
    the rows. Raises as `read` does.
    """
    if path.suffix not in table.ENDINGS:
        arrays = _arrays(path, spec)
        known = {t.name: t for t in (*spec.inputs, *(s.tensor for s in spec.states))}
        return {name: _with_batch(array, known[name]) if name in known else array for name, array in arrays.items()}
    for t in spec.inputs:
        if spec.has_time and t.time_axis is None:
            raise ValueError(f"input {t.name!r} of {spec.name!r} has no time axis, so no place in a .csv; write a .npz file")
    series = _split(path, spec, columns)  # [lines, *features] each
    if not spec.has_time:
        return series
    return {t.name: _with_batch(np.moveaxis(series[t.name], 0, _without_batch(t).index(SEQ_LEN)), t) for t in spec.inputs}


def batch_of(series: Series, spec: ModelSpec) -> int:
    """Rows in each time step; 1 where the series has no batch axis."""
    for t in spec.inputs:
        axes = [axis for axis in t.shape if axis != SEQ_LEN]
        entry = series[t.name].shape[1:]
        if BATCH in axes and len(entry) == len(axes):
            return int(entry[axes.index(BATCH)])
    return 1


def steps(series: Series) -> list[dict[str, Array]]:
    """What each step takes."""
    length = len(next(iter(series.values())))
    return [{name: array[t] for name, array in series.items()} for t in range(length)]


def _array(found: Any, name: str) -> Array:
    """NumPy goes by the content, not by the name: what is called .npy may be an archive, and hold files of any kind."""
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{name} is no array")
    return found


def ending(path: Path) -> str:
    """What is said of its name."""
    return f"ends in {path.suffix!r}" if path.suffix else "has no ending in its name"


def _arrays(path: Path, spec: ModelSpec) -> dict[str, Array]:
    if path.suffix not in (".npz", ".npy"):
        raise ValueError(f"{path} {ending(path)}, expected .csv, .tsv, .npy or .npz")
    content = io.BytesIO(path.read_bytes())
    if not content.getvalue().startswith((b"\x93NUMPY", b"PK")):  # which NumPy would take for a pickle
        raise ValueError(f"{path} cannot be read: it is not what numpy.save or numpy.savez writes")
    try:
        if path.suffix == ".npz":
            with np.load(content) as arrays:
                return {name: _array(arrays[name], name) for name in arrays.files}
        if len(spec.inputs) > 1:
            raise ValueError(f"{path} holds one array; model {spec.name!r} takes {_named(spec)}: write a .npz file")
        return {spec.inputs[0].name: _array(np.load(content), "it")}
    except Exception as error:  # a damaged file makes NumPy, its parsers of headers and of archives raise whatever they have
        raise ValueError(f"{path} cannot be read: {error}") from error


def _split(path: Path, spec: ModelSpec, columns: Columns) -> Series:
    """The columns that belong to each input."""
    shapes = {t.name: tuple(size for size in t.shape if isinstance(size, int)) for t in spec.inputs}
    lines = table.read(path, sum(prod(shape) for shape in shapes.values()), columns)
    series, start = {}, 0
    for t in spec.inputs:
        stop = start + prod(shapes[t.name])
        cells = [[_number(path, number, cell, t) for cell in line[start:stop]] for number, line in lines]
        series[t.name] = np.array(cells).reshape(len(lines), *shapes[t.name])
        start = stop
    return series


def _number(path: Path, line: int, cell: str, tensor: TensorSpec) -> float | int:
    """The cell as the input's kind of number: ids may be written as 5 or as 5.0."""
    if np.dtype(tensor.dtype).kind == "f":
        return float(cell)
    if not cell.strip().lstrip("+-").isdigit():
        if not float(cell).is_integer():
            raise ValueError(f"{path}, line {line} has {cell!r}, expected a whole number for {tensor.name!r}")
        return int(float(cell))
    return int(cell)


def _without_batch(tensor: TensorSpec) -> list[str | int]:
    return [axis for axis in tensor.shape if axis != BATCH]


def _with_batch(array: Array, tensor: TensorSpec) -> Array:
    axis = tensor.batch_axis
    return array if axis is None or array.ndim != len(tensor.shape) - 1 else np.expand_dims(array, axis)


def _named(spec: ModelSpec) -> str:
    return ", ".join(t.name for t in spec.inputs)
