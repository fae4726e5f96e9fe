"""The arena inside a model's graph: Gather before it, ScatterND behind it. The only place that knows onnx."""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from statecell.spec import SPEC_KEY, StateSpec

from statecell_server.runtime import LoadError, read_spec

SLOTS_IN, SLOTS_OUT = "statecell.slots_in", "statecell.slots_out"
"""Inputs, int64 ["batch"]: the slot that each row's state is read from, and the one that its next state is written to."""

FIRST_OPSET = 11
"""Of ScatterND. https://onnx.ai/onnx/operators/onnx__ScatterND.html"""


def arena(state: StateSpec) -> str:
    """The input that is the state's arena."""
    return f"statecell.arena.{state.input}"


def next_arena(state: StateSpec) -> str:
    """The output that is to be bound to the same memory."""
    return f"statecell.next.{state.input}"


def origin(state: StateSpec) -> str:
    """The mover's input that rows are taken from."""
    return f"statecell.from.{state.input}"


def unit(state: StateSpec) -> tuple[int, ...]:
    """The shape of one row, its batch axis left out."""
    return tuple(size for size in state.shape if isinstance(size, int))


def arena_shape(state: StateSpec, slots: int) -> tuple[int, ...]:
    """The shape of an arena input of so many slots: [slots * layers, hidden] for a state [layers, "batch", hidden].

    In memory that is [slots, layers, hidden]: what belongs to one slot is in one place, and growing is appending.
    """
    axis = state.batch_axis or 0
    return (slots * prod(unit(state)[:axis]), *unit(state)[axis:])


def with_arena(content: bytes, path: Path) -> bytes:
    """The model with its states in arenas: for each state an arena comes and goes in its place. Raises LoadError.

    Every node stays what it was, so the results are those of the model as it came, to the bit.
    """
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:
        raise LoadError(f"{path} cannot be loaded: {error}") from error
    spec = read_spec({p.key: p.value for p in model.metadata_props}.get(SPEC_KEY), path)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < FIRST_OPSET:
        raise LoadError(
            f"{path} has opset {opset}, an arena in the graph needs {FIRST_OPSET} or newer; "
            "export it again, or serve it with --state-arena host"
        )
    graph, states = model.graph, spec.states
    _drop(path, "input", graph.input, [s.input for s in states])
    _drop(path, "output", graph.output, [s.output for s in states])
    if states:
        graph.input.extend(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch"]) for name in (SLOTS_IN, SLOTS_OUT))
    for state in states:
        dtype, shape = _dtype(state), (None, *arena_shape(state, 1)[1:])
        graph.input.append(helper.make_tensor_value_info(arena(state), dtype, shape))
        graph.output.append(helper.make_tensor_value_info(next_arena(state), dtype, shape))
    nodes = list(graph.node)
    del graph.node[:]
    for lead in sorted({_lead(s) for s in states}):
        graph.node.extend(_index(lead))
    for state in states:
        graph.node.extend(_gather(state))
    graph.node.extend(nodes)
    for state in states:
        graph.node.extend(_scatter(state))
    return bytes(model.SerializeToString())


def mover(states: Sequence[StateSpec]) -> bytes:
    """A model that moves rows between arenas of these states: slots_in of each "statecell.from.h_0" to slots_out of its arena.

    Arenas and sources are [slots, *unit]; an array of the host is as good a source as an arena.
    """
    graph = onnx.GraphProto(name="mover")
    graph.input.extend(helper.make_tensor_value_info(name, TensorProto.INT64, ["rows"]) for name in (SLOTS_IN, SLOTS_OUT))
    graph.node.extend([_constant("axis", [1]), helper.make_node("Unsqueeze", [SLOTS_OUT, "axis"], ["index"])])
    for state in states:
        dtype, shape = _dtype(state), (None, *unit(state))
        rows = f"rows.{state.input}"
        graph.input.append(helper.make_tensor_value_info(origin(state), dtype, shape))
        graph.input.append(helper.make_tensor_value_info(arena(state), dtype, shape))
        graph.output.append(helper.make_tensor_value_info(next_arena(state), dtype, shape))
        graph.node.append(helper.make_node("Gather", [origin(state), SLOTS_IN], [rows], axis=0))
        graph.node.append(helper.make_node("ScatterND", [arena(state), "index", rows], [next_arena(state)]))
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def _drop(path: Path, kind: str, items: Any, names: Sequence[str]) -> None:
    by_name = {item.name: item for item in items}
    for name in names:
        if name not in by_name:
            raise LoadError(f"{path} has the {kind}s {sorted(by_name)}, its spec says {name!r} is one")
        items.remove(by_name[name])


def _dtype(state: StateSpec) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(state.dtype))


def _lead(state: StateSpec) -> tuple[int, ...]:
    """The sizes before the batch axis: a slot has a row of the arena for each."""
    return unit(state)[: state.batch_axis or 0]


def _tag(lead: tuple[int, ...]) -> str:
    return "x".join(["slots", *map(str, lead)])


def _constant(name: str, value: Any) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value, np.int64)))


def _index(lead: tuple[int, ...]) -> list[onnx.NodeProto]:
    """From slots to rows of an arena whose slots have `lead` rows each: [*lead, batch] to read, [*lead, batch, 1] to write."""
    tag, count = _tag(lead), prod(lead)
    nodes = [
        _constant(f"statecell.{tag}.count", count),
        _constant(f"statecell.{tag}.offsets", np.arange(count).reshape(*lead, 1)),
    ]
    for slots, kind, shape in ((SLOTS_IN, "in", [*lead, -1]), (SLOTS_OUT, "out", [*lead, -1, 1])):
        name = f"statecell.{tag}.{kind}"
        rows = slots
        if count > 1:
            rows = f"{name}.rows"
            nodes.append(helper.make_node("Mul", [slots, f"statecell.{tag}.count"], [f"{name}.first"]))
            nodes.append(helper.make_node("Add", [f"{name}.first", f"statecell.{tag}.offsets"], [rows]))
        nodes += [_constant(f"{name}.shape", shape), helper.make_node("Reshape", [rows, f"{name}.shape"], [name])]
    return nodes


def _gather(state: StateSpec) -> list[onnx.NodeProto]:
    index = f"statecell.{_tag(_lead(state))}.in"
    if state.batch_axis is not None:
        return [helper.make_node("Gather", [arena(state), index], [state.input], axis=0)]
    row, shape = f"statecell.row.{state.input}", f"statecell.shape.{state.input}"
    return [
        helper.make_node("Gather", [arena(state), index], [row], axis=0),
        _constant(shape, state.sized()),
        helper.make_node("Reshape", [row, shape], [state.input]),
    ]


def _scatter(state: StateSpec) -> list[onnx.NodeProto]:
    index = f"statecell.{_tag(_lead(state))}.out"
    if state.batch_axis is not None:
        return [helper.make_node("ScatterND", [arena(state), index, state.output], [next_arena(state)])]
    row, shape = f"statecell.next_row.{state.input}", f"statecell.next_shape.{state.input}"
    return [
        _constant(shape, [1, *state.sized()]),
        helper.make_node("Reshape", [state.output, shape], [row]),
        helper.make_node("ScatterND", [arena(state), index, row], [next_arena(state)]),
    ]
