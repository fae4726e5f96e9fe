"""Series of time steps in files: .csv, .npy and .npz."""

import csv
import sys
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from statecell.spec import BATCH, SEQ_LEN, ModelSpec, TensorSpec

from statecell_client.arrays import Array

Series = dict[str, Array]
"""By input or output name; each entry of the first axis is one time step."""


def read(path: Path, spec: ModelSpec) -> Series:
    """The file's inputs. Raises ValueError where it does not hold what the model takes, OSError where it cannot be read.

    .npy has the only input, .npz an array for each input by its name. .csv has a line for each time step, with or without a
    line of titles first, and in its columns the features of all inputs in the spec's order.
    """
    match path.suffix:
        case ".npz":
            with np.load(path) as arrays:
                series = {name: arrays[name] for name in arrays.files}
        case ".npy":
            series = {spec.inputs[0].name: np.load(path)}
        case ".csv":
            series = _split(path, _numbers(path), spec)
        case other:
            raise ValueError(f"{path} ends in {other!r}, expected .csv, .npy or .npz")
    names = [t.name for t in spec.inputs]
    if sorted(series) != sorted(names):
        raise ValueError(f"{path} holds {', '.join(series)}; model {spec.name!r} takes {', '.join(names)}")
    lengths = {name: len(array) if array.ndim else 0 for name, array in series.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ValueError(f"{path} has these time steps: {lengths}; expected one or more, the same for each input")
    return series


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


def check(path: Path | None, spec: ModelSpec) -> None:
    """Raises ValueError or OSError where `write` would, before there is anything to write."""
    if path is None:
        return
    if path.suffix not in (".csv", ".npz", ".npy") or (path.suffix == ".npy" and len(spec.outputs) > 1):
        raise ValueError(f"{path} ends in {path.suffix!r}, expected .csv, .npz, or .npy where the model has one output")
    path.open("ab").close()


def write(path: Path | None, answers: Sequence[Any], spec: ModelSpec) -> None:
    """The steps' answers, to a file that `check` let pass; without one as CSV to the terminal."""
    names = [t.name for t in spec.outputs]
    named = [answer if isinstance(answer, dict) else {names[0]: answer} for answer in answers]
    series = {name: np.stack([answer[name] for answer in named]) for name in names}
    if path is None:
        _write_csv(sys.stdout, series)
    elif path.suffix == ".npy":
        np.save(path, series[names[0]])
    elif path.suffix == ".npz":
        np.savez(path, allow_pickle=False, **series)
    else:
        with path.open("w", newline="") as file:
            _write_csv(file, series)


def _write_csv(file: TextIO, series: Series) -> None:
    writer = csv.writer(file)
    writer.writerow([name if a[0].size == 1 else f"{name}_{i}" for name, a in series.items() for i in range(a[0].size)])
    for row in np.concatenate([array.reshape(len(array), -1) for array in series.values()], 1):
        writer.writerow([str(number) for number in row])  # the shortest digits that give the same float32


def _numbers(path: Path) -> Array:
    with path.open(newline="") as file:
        lines = [(number, line) for number, line in enumerate(csv.reader(file), 1) if line]
    if lines and not _is_number(lines[0][1][0]):
        del lines[0]  # the titles
    for number, line in lines:
        if len(line) != len(lines[0][1]):
            raise ValueError(
                f"{path}, line {number} has {len(line)} columns, expected {len(lines[0][1])} as in the line above it"
            )
        for cell in line:
            if not _is_number(cell):
                raise ValueError(f"{path}, line {number} has {cell!r}, expected a number")
    return np.array([[float(cell) for cell in line] for _, line in lines])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _split(path: Path, numbers: Array, spec: ModelSpec) -> Series:
    """The columns that belong to each input."""
    shapes = {t.name: _features(t) for t in spec.inputs}
    width = sum(prod(shape) for shape in shapes.values())
    if numbers.ndim != 2 or numbers.shape[1] != width:
        came = numbers.shape[1] if numbers.ndim == 2 else 0
        raise ValueError(f"{path} has {came} columns, model {spec.name!r} takes {width}: {shapes}")
    series, start = {}, 0
    for t in spec.inputs:
        columns = numbers[:, start : start + prod(shapes[t.name])].reshape(len(numbers), *shapes[t.name])
        whole = columns.astype(np.int64)
        series[t.name] = whole if (whole == columns).all() else columns  # ids may be written as 5 or as 5.0
        start += prod(shapes[t.name])
    return series


def _features(tensor: TensorSpec) -> tuple[int, ...]:
    return tuple(size for size in tensor.shape if isinstance(size, int))
