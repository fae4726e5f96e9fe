"""ModelSpec refuses what cannot be, with a named error, before anything is made after it."""

import json
import tracemalloc
from typing import Any

import pytest
from statecell.spec import ModelSpec, SpecError

GOOD: dict[str, Any] = {
    "name": "echo",
    "inputs": [{"name": "u", "dtype": "float32", "shape": ["seq_len", "batch", "3"]}],
    "outputs": [{"name": "v", "dtype": "float32", "shape": ["seq_len", "batch", "3"]}],
    "states": [{"input": "s", "output": "s_n", "dtype": "float32", "shape": ["batch", "7"], "initial": 0.5}],
    "streamable": True,
    "reason": "",
    "min_batch": 1,
    "format": 1,
}


def changed(path: str, value: object) -> dict[str, Any]:
    """GOOD with another value at "states.0.shape"."""
    spec: dict[str, Any] = json.loads(json.dumps(GOOD))
    *way, last = path.split(".")
    at = spec
    for key in way:
        at = at[int(key)] if isinstance(at, list) else at[key]
    at[last] = value
    return spec


def test_a_spec_survives_its_own_json() -> None:
    spec = ModelSpec.from_json(json.dumps(GOOD))
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert (spec.state_bytes, spec.row_bytes) == (28, 80)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("name", 17, "model name is 17, expected text"),
        ("name", "", "model name is empty"),
        ("name", "n" * 2000, "model name has 2000 characters"),
        ("name", "half \ud83d", "not Unicode text"),
        ("format", True, "format is True"),
        ("format", 2, "reads format 1"),
        ("streamable", 1, "streamable is 1, expected true or false"),
        ("reason", {"a": 1}, "reason is {'a': 1}, expected text"),
        ("reason", "r" * 20_000, "reason has 20000 characters"),
        ("min_batch", "2", "min_batch is '2', expected a number"),
        ("min_batch", True, "min_batch is True"),
        ("min_batch", 5_000_000, "min_batch 5000000, expected 1 to 1024"),
        ("min_batch", 0, "min_batch 0"),
        ("inputs", {}, "inputs are {}, expected a list"),
        ("inputs", [], "no input beside its states"),
        ("inputs", ["u"], "input is 'u', expected an object"),
        ("inputs", [{"name": str(n), "dtype": "int8", "shape": []} for n in range(5000)], "expected a list of at most 4096"),
        ("inputs.0.colour", "red", "has a field 'colour'"),
        ("inputs.0.name", None, "name is None, expected text"),
        ("inputs.0.dtype", ["float32"], "has dtype ['float32'], expected one of"),
        ("inputs.0.dtype", "float8", "has dtype 'float8'"),
        ("inputs.0.shape", "batch", "has the shape 'batch', expected a list"),
        ("inputs.0.shape", ["1"] * 33, "expected a list of at most 32"),
        ("inputs.0.shape", ["batch", 3], "axis is 3, expected text"),
        ("inputs.0.shape", ["batch", "+3"], "an axis '+3'"),
        ("inputs.0.shape", ["batch", "---3"], "an axis '---3'"),
        ("inputs.0.shape", ["batch", "\u0663"], "an axis '\u0663'"),
        ("inputs.0.shape", ["batch", "-3"], "size -3, expected at least 1"),
        ("inputs.0.shape", ["batch", "9" * 4000], "an axis '9999"),
        ("inputs.0.shape", ["batch", "batch"], "'batch' twice"),
        ("outputs.0.shape", ["batch", str(1 << 38)], "bytes a row and time step, the most is 1073741824"),
        ("outputs.0.shape", ["65536"] * 4, "bytes a row and time step"),
        ("states.0.shape", ["batch", str(1 << 29)], "bytes a row and time step"),
        ("states.0.shape", ["batch", "seq_len"], "a state has none"),
        ("states.0.output", "", "is empty"),
        ("states.0.output", "v", "the output 'v' twice"),
        ("states.0.initial", "zero", "initial value is 'zero', expected a number"),
        ("states.0.initial", None, "initial value is None, expected a number"),
        ("states.0.initial", float("nan"), "is nan, which is no float32"),
        ("states.0.initial", 1e39, "is 1e+39, which is no float32"),
        ("states", [{"input": "s", "dtype": "float32"}], "state has no 'output'"),
        ("colour", "red", "spec has a field 'colour'"),
    ],
)
def test_what_cannot_be_is_named(path: str, value: object, says: str) -> None:
    with pytest.raises(SpecError) as error:
        ModelSpec.from_json(json.dumps(changed(path, value)))
    assert says in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("dtype", "initial"), [("int8", 128), ("uint8", -1), ("int32", 0.5), ("bool", 2), ("float16", 70_000.0)]
)
def test_an_initial_value_is_one_of_the_states_dtype(dtype: str, initial: float) -> None:
    spec = changed("states.0.dtype", dtype)
    spec["states"][0]["initial"] = initial
    with pytest.raises(SpecError, match=f"which is no {dtype}"):
        ModelSpec.from_dict(spec)


@pytest.mark.parametrize(
    "text", ["[" * 50_000, "{" * 50_000, '{"a":' * 50_000, "{", "[]", "7", '"x"', "1" * 5000, " " * (2 << 20)]
)
def test_what_is_no_json_object_is_named(text: str) -> None:
    with pytest.raises(SpecError):
        ModelSpec.from_json(text)


def test_refusing_terabytes_costs_next_to_nothing() -> None:
    text = json.dumps(changed("states.0.shape", ["batch", str(1 << 42)]))
    tracemalloc.start()
    with pytest.raises(SpecError):
        ModelSpec.from_json(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
