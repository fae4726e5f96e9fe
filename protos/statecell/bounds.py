"""What may stand in a ModelSpec: types, names, sizes and numbers, all of them bounded.

A spec comes from a file that anybody may have written: it is looked at as a whole before anything is made after it.
"""

import math

import numpy as np

DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
BATCH = "batch"
SEQ_LEN = "seq_len"
Shape = tuple[int | str, ...]

MOST_TEXT = 1 << 20
"""Characters of a spec's JSON."""
MOST_NAME = 1024
MOST_REASON = 16_384
MOST_TENSORS = 4096
"""Inputs, outputs and states, each."""
MOST_AXES = 32
MOST_BYTES = 1 << 30
"""Of a tensor's one row and time step; also of all inputs, outputs and states of a model together."""
MOST_MIN_BATCH = 1024


class SpecError(ValueError):
    """The artifact's spec is missing or contradicts itself. Export the model again, or adopt the file."""


def shown(value: object) -> str:
    """As it stands in a message: what a file says may be long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}... ({type(value).__name__})"


def check_type(where: str, value: object, kind: type, expected: str) -> None:
    # A bool is an int to isinstance, and is none in a spec.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise SpecError(f"{where} is {shown(value)}, expected {expected}")


def check_text(where: str, text: object, most: int, *, empty: bool = False) -> None:
    check_type(where, text, str, "text")
    assert isinstance(text, str), "as check_type has seen"
    if not text and not empty:
        raise SpecError(f"{where} is empty")
    if len(text) > most:
        raise SpecError(f"{where} has {len(text)} characters, the most is {most}")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise SpecError(f"{where} is {shown(text)}, which is not Unicode text: half of a surrogate pair") from error


def check_tensor(where: str, name: str, dtype: str, shape: Shape) -> None:
    check_text(f"{where}'s name", name, MOST_NAME)
    where = f"{where} {shown(name)}"
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise SpecError(f"{where} has dtype {shown(dtype)}, expected one of {', '.join(DTYPES)}")
    check_type(f"{where}'s shape", shape, tuple, "a list of sizes, 'batch' and 'seq_len'")
    if len(shape) > MOST_AXES:
        raise SpecError(f"{where} has {len(shape)} axes, the most is {MOST_AXES}")
    for size in shape:
        if isinstance(size, str):
            if size not in (BATCH, SEQ_LEN):
                raise SpecError(f"{where} has an axis {shown(size)}, expected 'batch', 'seq_len' or a size")
        else:
            check_type(f"{where}'s axis", size, int, "'batch', 'seq_len' or a size")
            if size < 1:
                raise SpecError(f"{where} has an axis of size {size}, expected at least 1")
    for symbol in (BATCH, SEQ_LEN):
        if shape.count(symbol) > 1:
            raise SpecError(f"{where} has {symbol!r} twice in its shape {list(shape)}")
    if (size := row_bytes(dtype, shape)) > MOST_BYTES:
        raise SpecError(
            f"{where} has shape {shown(list(shape))}: {size:.3g} bytes a row and time step, the most is {MOST_BYTES}"
        )


def row_bytes(dtype: str, shape: Shape) -> int:
    return math.prod(size for size in shape if isinstance(size, int)) * np.dtype(dtype).itemsize


def check_initial(where: str, value: object, dtype: str) -> None:
    """Whether the state's dtype has such a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpecError(f"{where} is {shown(value)}, expected a number")
    kind = np.dtype(dtype)
    if kind.kind == "f":
        limit = float(np.finfo(kind).max)
        fits = -limit <= value <= limit
    else:
        least, most = (0, 1) if kind.kind == "b" else (int(np.iinfo(kind).min), int(np.iinfo(kind).max))
        fits = least <= value <= most and value == int(value)
    if not fits:  # NaN too, which is neither more nor less
        raise SpecError(f"{where} is {shown(value)}, which is no {dtype}")
