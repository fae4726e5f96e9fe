"""Where a model's outputs go: .csv, .npy, .npz or the terminal."""

import csv
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from statecell.spec import ModelSpec, TensorSpec

from statecell_client.arrays import Array
from statecell_client.cli.series import ending

ENDINGS = (".csv", ".npy", ".npz")


def check(path: Path | None, spec: ModelSpec) -> None:
    """Raises ValueError or OSError where `write` would, before there is anything to write. Makes nothing."""
    if path is None:
        return
    if path.suffix not in ENDINGS or (path.suffix == ".npy" and len(spec.outputs) > 1):
        raise ValueError(f"{path} {ending(path)}, expected .csv, .npz, or .npy where the model has one output")
    check_place(path)


def check_place(path: Path | None) -> None:
    """Raises ValueError where no file can be written there, before there is anything to write. Makes nothing."""
    if path is None:
        return
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: there is no folder {path.parent}; make it first")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{path} cannot be written: it is a folder, or nobody may write there; choose another place")


def write(path: Path | None, arrays: Mapping[str, Array]) -> None:
    """Arrays with one length, their first axis the lines of a .csv, to a file that `check` let pass, or to the terminal."""
    match path.suffix if path is not None else "":
        case "":
            _write_csv(sys.stdout, arrays)
            sys.stdout.flush()  # where the reader is gone, that shows here
        case ".npy":
            _replace(path, lambda file: np.save(file, next(iter(arrays.values()))))
        case ".npz":
            _replace(path, lambda file: np.savez(file, allow_pickle=False, **arrays))
        case _:
            _replace(path, lambda file: _write_csv(file, arrays), text=True)


def lines(outputs: Mapping[str, Array], spec: ModelSpec) -> dict[str, Array]:
    """One call's outputs with a line's worth in each entry of the first axis: time steps of the one row, or rows."""
    found = {t.name: _lines(outputs[t.name], t) for t in spec.outputs}
    if len({len(array) for array in found.values()}) > 1:
        shapes = {name: list(array.shape) for name, array in found.items()}
        raise ValueError(f"the outputs have different lengths, {shapes}, which is no table; write a .npz file: --out FILE.npz")
    return found


def told(arrays: Mapping[str, Array], path: Path | None) -> str:
    """ "y [50, 20] written to out.csv" """
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
    return f"{shapes} written to {path if path is not None else 'the terminal'}"


def _lines(array: Array, tensor: TensorSpec) -> Array:
    if tensor.time_axis is None:
        return array if tensor.batch_axis in (0, None) else np.moveaxis(array, tensor.batch_axis, 0)
    if tensor.batch_axis is None:
        return np.moveaxis(array, tensor.time_axis, 0)
    if array.shape[tensor.batch_axis] != 1:
        raise ValueError(f"output {tensor.name!r} is {list(array.shape)}, which is no table; write a .npz file: --out FILE.npz")
    return np.moveaxis(array, (tensor.time_axis, tensor.batch_axis), (0, 1))[:, 0]


def _replace(path: Path | None, fill: Callable[[Any], None], *, text: bool = False) -> None:
    """Fills a file beside `path` and moves it there, so that what stops in the middle leaves what was there."""
    assert path is not None
    mode, newline = ("w", "") if text else ("wb", None)
    if path.exists() and not path.is_file():  # a pipe, or /dev/stdout
        with path.open(mode, newline=newline) as file:
            fill(file)
        return
    try:
        handle, aside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}; choose another place") from error
    try:
        with os.fdopen(handle, mode, newline=newline) as file:
            fill(file)
        umask = os.umask(0)
        os.umask(umask)
        Path(aside).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~umask)
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _write_csv(file: IO[str], arrays: Mapping[str, Array]) -> None:
    writer = csv.writer(file)
    writer.writerow([name if a[0].size == 1 else f"{name}_{i}" for name, a in arrays.items() for i in range(a[0].size)])
    for row in zip(*(array.reshape(len(array), -1) for array in arrays.values()), strict=True):
        writer.writerow([str(number) for part in row for number in part])  # the shortest digits that give the same float32
