"""ModelSpec: what a model takes, gives and remembers; carried inside every artifact as JSON."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

SPEC_KEY = "statecell.spec"
"""The key in ONNX metadata_props and in TorchScript's _extra_files under which an artifact carries its spec."""

FORMAT = 1
BATCH = "batch"
SEQ_LEN = "seq_len"
DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")

Shape = tuple[int | str, ...]


class SpecError(ValueError):
    """The artifact's spec is missing or contradicts itself. Export the model again, or adopt the file."""


def _axis(shape: Shape, symbol: str) -> int | None:
    return shape.index(symbol) if symbol in shape else None


def _check(where: str, name: str, dtype: str, shape: Shape) -> None:
    if not name:
        raise SpecError(f"{where} has no name")
    if dtype not in DTYPES:
        raise SpecError(f"{where} {name!r} has dtype {dtype!r}, expected one of {', '.join(DTYPES)}")
    for size in shape:
        if isinstance(size, str) and size not in (BATCH, SEQ_LEN):
            raise SpecError(f"{where} {name!r} has an axis {size!r}, expected 'batch', 'seq_len' or a size")
        if isinstance(size, int) and size < 1:
            raise SpecError(f"{where} {name!r} has an axis of size {size}, expected at least 1")
    for symbol in (BATCH, SEQ_LEN):
        if shape.count(symbol) > 1:
            raise SpecError(f"{where} {name!r} has {symbol!r} twice in its shape {list(shape)}")


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: its name, NumPy dtype and shape of sizes, "seq_len" and "batch"."""

    name: str
    dtype: str
    shape: Shape

    def __post_init__(self) -> None:
        _check("tensor", self.name, self.dtype, self.shape)

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
        _check("state", self.input, self.dtype, self.shape)
        if not self.output:
            raise SpecError(f"state {self.input!r} has no output that carries it on")
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
        if self.format != FORMAT:
            raise SpecError(f"spec has format {self.format}, this release reads format {FORMAT}")
        if not self.name:
            raise SpecError("spec has no model name")
        if not self.inputs:
            raise SpecError(f"model {self.name!r} has no input beside its states")
        for kind, names in (
            ("input", [t.name for t in self.inputs] + [s.input for s in self.states]),
            ("output", [t.name for t in self.outputs] + [s.output for s in self.states]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise SpecError(f"model {self.name!r} has the {kind} {twice[0]!r} twice")
        if self.streamable and not self.states:
            raise SpecError(f"model {self.name!r} is called streamable but has no state")
        if not self.streamable and not self.reason:
            raise SpecError(f"model {self.name!r} is called not streamable without a reason")
        if len({s.batch_axis is None for s in self.states}) > 1:
            raise SpecError(f"model {self.name!r} has states with a batch axis and states without one")
        if self.min_batch < 1:
            raise SpecError(f"model {self.name!r} has min_batch {self.min_batch}, expected at least 1")

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
        fields = asdict(self)
        for tensor in (*fields["inputs"], *fields["outputs"], *fields["states"]):
            tensor["shape"] = [str(size) for size in tensor["shape"]]
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The reverse of to_dict. Raises SpecError."""

        def build(kind: type[TensorSpec] | type[StateSpec], items: list[dict[str, Any]]) -> tuple[Any, ...]:
            return tuple(
                kind(**{**item, "shape": tuple(int(s) if s.lstrip("-").isdigit() else s for s in item.get("shape", ()))})
                for item in items
            )

        try:
            return cls(
                **{
                    **fields,
                    "inputs": build(TensorSpec, fields.get("inputs", [])),
                    "outputs": build(TensorSpec, fields.get("outputs", [])),
                    "states": build(StateSpec, fields.get("states", [])),
                }
            )
        except (TypeError, AttributeError) as error:
            raise SpecError(f"spec cannot be read: {error}") from error

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises SpecError."""
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise SpecError(f"spec is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise SpecError(f"spec is a JSON {type(fields).__name__}, expected an object")
        return cls.from_dict(fields)
