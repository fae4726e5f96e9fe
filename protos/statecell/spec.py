"""ModelSpec: what a model takes, gives and remembers; carried inside every artifact as JSON."""

import json
import re
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Self

import numpy as np

from statecell.bounds import (
    BATCH,
    DTYPES,
    MOST_AXES,
    MOST_BYTES,
    MOST_MIN_BATCH,
    MOST_NAME,
    MOST_REASON,
    MOST_TENSORS,
    MOST_TEXT,
    SEQ_LEN,
    Shape,
    SpecError,
    check_initial,
    check_tensor,
    check_text,
    check_type,
    row_bytes,
    shown,
)

__all__ = [
    "BATCH",
    "DTYPES",
    "FORMAT",
    "SEQ_LEN",
    "SPEC_KEY",
    "ModelSpec",
    "Shape",
    "SpecError",
    "StateSpec",
    "TensorSpec",
]

SPEC_KEY = "statecell.spec"
"""The key in ONNX metadata_props and in TorchScript's _extra_files under which an artifact carries its spec."""

FORMAT = 1


def _axis(shape: Shape, symbol: str) -> int | None:
    return shape.index(symbol) if symbol in shape else None


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: its name, NumPy dtype and shape of sizes, "seq_len" and "batch"."""

    name: str
    dtype: str
    shape: Shape

    def __post_init__(self) -> None:
        check_tensor("tensor", self.name, self.dtype, self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row and time step."""
        return row_bytes(self.dtype, self.shape)

    @cached_property
    def batch_axis(self) -> int | None:
        return _axis(self.shape, BATCH)

    @cached_property
    def time_axis(self) -> int | None:
        return _axis(self.shape, SEQ_LEN)

    def sized(self, *, seq_len: int = 1, batch: int = 1) -> tuple[int, ...]:
        """The shape in numbers."""
        symbols = {SEQ_LEN: seq_len, BATCH: batch}
        return tuple(symbols[size] if isinstance(size, str) else size for size in self.shape)


@dataclass(frozen=True)
class StateSpec:
    """A recurrent state: graph input `input` is filled with what the call before gave as graph output `output`."""

    input: str
    output: str
    dtype: str
    shape: Shape  # such as (num_layers * num_directions, "batch", hidden_size)
    initial: float = 0.0

    def __post_init__(self) -> None:
        check_tensor("state", self.input, self.dtype, self.shape)
        check_text(f"state {shown(self.input)}'s output, which carries it on,", self.output, MOST_NAME)
        check_initial(f"state {shown(self.input)}'s initial value", self.initial, self.dtype)
        if SEQ_LEN in self.shape:
            raise SpecError(f"state {self.input!r} has a time axis in its shape {list(self.shape)}; a state has none")

    @cached_property
    def batch_axis(self) -> int | None:
        return _axis(self.shape, BATCH)

    @cached_property
    def tensor(self) -> TensorSpec:
        """The state as the input tensor that it is."""
        return TensorSpec(self.input, self.dtype, self.shape)

    def sized(self, *, batch: int = 1) -> tuple[int, ...]:
        """The shape in numbers."""
        return self.tensor.sized(batch=batch)

    def fresh(self, batch: int = 1) -> np.ndarray[Any, Any]:
        """The initial state of `batch` rows."""
        return np.full(self.sized(batch=batch), self.initial, self.dtype)


@dataclass(frozen=True)
class ModelSpec:
    """The contract between exporter and server.

    `inputs` and `outputs` leave the states out. A model is stepped with its inputs and states and gives its outputs and the
    states' next values. Where an input has no "seq_len" axis, it is the same for all time steps of a call (a speaker id);
    where no input has one, each call is one time step (nn.LSTMCell). Where the states have no "batch" axis, the model runs
    one session at a time.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...] = ()
    streamable: bool = True
    reason: str = ""
    min_batch: int = 1
    format: int = FORMAT

    def __post_init__(self) -> None:
        check_type("spec's format", self.format, int, f"the number {FORMAT}")
        if self.format != FORMAT:
            raise SpecError(f"spec has format {shown(self.format)}, this release reads format {FORMAT}")
        check_text("spec's model name", self.name, MOST_NAME)
        check_type(f"model {shown(self.name)}'s streamable", self.streamable, bool, "true or false")
        check_text(f"model {shown(self.name)}'s reason", self.reason, MOST_REASON, empty=True)
        check_type(f"model {shown(self.name)}'s min_batch", self.min_batch, int, "a number of rows")
        self._check_tensors()
        if self.streamable and not self.states:
            raise SpecError(f"model {self.name!r} is called streamable but has no state")
        if not self.streamable and not self.reason:
            raise SpecError(f"model {self.name!r} is called not streamable without a reason")
        if not 1 <= self.min_batch <= MOST_MIN_BATCH:
            raise SpecError(f"model {self.name!r} has min_batch {shown(self.min_batch)}, expected 1 to {MOST_MIN_BATCH}")

    def _check_tensors(self) -> None:
        for side, kind in (("inputs", TensorSpec), ("outputs", TensorSpec), ("states", StateSpec)):
            items = getattr(self, side)
            check_type(f"model {shown(self.name)}'s {side}", items, tuple, "a list")
            if len(items) > MOST_TENSORS:
                raise SpecError(f"model {self.name!r} has {len(items)} {side}, the most is {MOST_TENSORS}")
            for item in items:
                check_type(f"model {shown(self.name)}'s {side}", item, kind, kind.__name__)
        if not self.inputs:
            raise SpecError(f"model {self.name!r} has no input beside its states")
        for direction, names in (
            ("input", [t.name for t in self.inputs] + [s.input for s in self.states]),
            ("output", [t.name for t in self.outputs] + [s.output for s in self.states]),
        ):
            seen: set[str] = set()
            for name in names:
                if name in seen:
                    raise SpecError(f"model {self.name!r} has the {direction} {name!r} twice")
                seen.add(name)
        if len({s.batch_axis is None for s in self.states}) > 1:
            raise SpecError(f"model {self.name!r} has states with a batch axis and states without one")
        if self.row_bytes > MOST_BYTES:
            raise SpecError(
                f"model {self.name!r} takes {self.row_bytes:.3g} bytes a row and time step, the most is {MOST_BYTES}"
            )

    @property
    def state_bytes(self) -> int:
        """Bytes of one session's state."""
        return sum(s.tensor.row_bytes for s in self.states)

    @property
    def row_bytes(self) -> int:
        """Bytes that go into a run and come out of it, for one row and time step."""
        return sum(t.row_bytes for t in (*self.inputs, *self.outputs)) + 2 * self.state_bytes

    @cached_property
    def has_time(self) -> bool:
        """Whether a call takes any number of time steps; otherwise each call is one."""
        return any(t.time_axis is not None for t in self.inputs)

    @cached_property
    def has_batch(self) -> bool:
        """Whether a call takes any number of rows; otherwise it takes one."""
        return any(t.batch_axis is not None for t in (*self.inputs, *(s.tensor for s in self.states)))

    def to_dict(self) -> dict[str, Any]:
        """As JSON would have it; sizes in shapes are strings, as on the wire."""
        said = asdict(self)
        for tensor in (*said["inputs"], *said["outputs"], *said["states"]):
            tensor["shape"] = [str(size) for size in tensor["shape"]]
        return said

    @classmethod
    def from_dict(cls, said: dict[str, Any]) -> Self:
        """The reverse of to_dict. Raises SpecError."""
        return cls(
            **{
                **_known(cls, "spec", said),
                "inputs": _items(TensorSpec, "input", said.get("inputs", [])),
                "outputs": _items(TensorSpec, "output", said.get("outputs", [])),
                "states": _items(StateSpec, "state", said.get("states", [])),
            }
        )

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises SpecError."""
        if len(text) > MOST_TEXT:
            raise SpecError(f"spec has {len(text)} characters, the most is {MOST_TEXT}")
        try:
            said = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"spec is not JSON: {error}") from error
        if not isinstance(said, dict):
            raise SpecError(f"spec is a JSON {type(said).__name__}, expected an object")
        return cls.from_dict(said)


def _known(kind: type, where: str, said: object) -> dict[str, Any]:
    """The fields of `kind` that JSON gave. Raises SpecError where one is unknown, or missing."""
    if not isinstance(said, dict):
        raise SpecError(f"{where} is {shown(said)}, expected an object")
    names = [field.name for field in fields(kind)]
    for name in said:
        if name not in names:
            raise SpecError(f"{where} has a field {shown(name)}, expected {', '.join(names)}")
    for name in ("input", "output", "dtype") if kind is StateSpec else ("name", "dtype") if kind is TensorSpec else ("name",):
        if name not in said:
            raise SpecError(f"{where} has no {name!r}")
    return said


def _items(kind: type, where: str, said: object) -> tuple[Any, ...]:
    """The tensors or states of a list that JSON gave."""
    if not isinstance(said, list) or len(said) > MOST_TENSORS:
        raise SpecError(f"spec's {where}s are {shown(said)}, expected a list of at most {MOST_TENSORS}")
    return tuple(kind(**{**_known(kind, where, item), "shape": _shape(where, item.get("shape", []))}) for item in said)


def _shape(where: str, said: object) -> Shape:
    if not isinstance(said, list) or len(said) > MOST_AXES:
        raise SpecError(f"{where} has the shape {shown(said)}, expected a list of at most {MOST_AXES} sizes")
    for size in said:
        check_type(f"{where}'s axis", size, str, "text: 'batch', 'seq_len' or a size")
    # ASCII digits only, and few: int() also reads others, and its time grows with the square of their number.
    return tuple(int(size) if re.fullmatch(r"-?[0-9]{1,18}", size) else size for size in said)
