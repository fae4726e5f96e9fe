"""The arena inside a model's graph: Gather before it, ScatterND behind it. The only place that knows onnx."""

from collections.abc import Sequence
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from statecell.spec import BATCH, SPEC_KEY, StateSpec, TensorSpec

from statecell_server.runtimes.runtime import LoadError, read_spec

MOVED = ("statecell.from", "statecell.to")
"""The mover's inputs, int64 ["slots"]: where rows are taken from, and where they end."""

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
    return f"statecell.origin.{state.input}"


def unit(state: StateSpec) -> tuple[int, ...]:
    """The shape of one row, its batch axis left out."""
    return tuple(size for size in state.shape if isinstance(size, int))


def lead(state: StateSpec) -> tuple[int, ...]:
    """The sizes before the batch axis: a slot has a row of the arena for each."""
    return unit(state)[: state.batch_axis or 0]


def indices(states: Sequence[StateSpec]) -> list[tuple[TensorSpec, TensorSpec]]:
    """For each lead, in order: the inputs that say which rows of an arena are read, and which are written.

    They come as inputs and are not computed in the graph: next to other nodes, ONNX Runtime would have taken the Gather of a
    float16 state for one of those that it runs in float32 on the CPU, and would cast the whole arena for it in every run.
    """
    leads = sorted({lead(s) for s in states})
    return [(_index("in", sizes), _index("out", sizes, 1)) for sizes in leads]


def _index(kind: str, sizes: tuple[int, ...], *rest: int) -> TensorSpec:
    return TensorSpec("x".join([f"statecell.{kind}", *map(str, sizes)]), "int64", (*sizes, BATCH, *rest))


def arena_shape(state: StateSpec, slots: int) -> tuple[int, ...]:
    """The shape of an arena input of so many slots: [slots * layers, hidden] for a state [layers, "batch", hidden].

    In memory that is [slots, layers, hidden]: what belongs to one slot is in one place, and growing is appending.
    """
    return (slots * prod(lead(state)), *unit(state)[len(lead(state)) :])


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
    for index in chain.from_iterable(indices(states)):
        graph.input.append(helper.make_tensor_value_info(index.name, TensorProto.INT64, index.shape))
    for state in states:
        dtype, shape = _dtype(state), (None, *arena_shape(state, 1)[1:])
        graph.input.append(helper.make_tensor_value_info(arena(state), dtype, shape))
        graph.output.append(helper.make_tensor_value_info(next_arena(state), dtype, shape))
    nodes = list(graph.node)
    del graph.node[:]
    for state in states:
        graph.node.extend(_gather(state))
    graph.node.extend(nodes)
    for state in states:
        graph.node.extend(_scatter(state))
    return bytes(model.SerializeToString())


def mover(states: Sequence[StateSpec]) -> bytes:
    """A model that moves rows between arenas of these states: MOVED[0] of each origin to MOVED[1] of the arena.

    Arenas and sources are [slots, *unit]; an array of the host is as good a source as an arena.
    """
    graph = onnx.GraphProto(name="mover")
    graph.input.extend(helper.make_tensor_value_info(name, TensorProto.INT64, ["slots"]) for name in MOVED)
    graph.node.extend([_constant("axis", [1]), helper.make_node("Unsqueeze", [MOVED[1], "axis"], ["index"])])
    for state in states:
        dtype, shape = _dtype(state), (None, *unit(state))
        rows = f"rows.{state.input}"
        graph.input.append(helper.make_tensor_value_info(origin(state), dtype, shape))
        graph.input.append(helper.make_tensor_value_info(arena(state), dtype, shape))
        graph.output.append(helper.make_tensor_value_info(next_arena(state), dtype, shape))
        graph.node.append(helper.make_node("Gather", [origin(state), MOVED[0]], [rows], axis=0))
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


def _constant(name: str, value: Any) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value, np.int64)))


def _gather(state: StateSpec) -> list[onnx.NodeProto]:
    index = _index("in", lead(state)).name
    if state.batch_axis is not None:
        return [helper.make_node("Gather", [arena(state), index], [state.input], axis=0)]
    row, shape = f"statecell.row.{state.input}", f"statecell.shape.{state.input}"
    return [
        helper.make_node("Gather", [arena(state), index], [row], axis=0),
        _constant(shape, state.sized()),
        helper.make_node("Reshape", [row, shape], [state.input]),
    ]


def _scatter(state: StateSpec) -> list[onnx.NodeProto]:
    index = _index("out", lead(state)).name
    if state.batch_axis is not None:
        return [helper.make_node("ScatterND", [arena(state), index, state.output], [next_arena(state)])]
    row, shape = f"statecell.next_row.{state.input}", f"statecell.next_shape.{state.input}"
    return [
        _constant(shape, [1, *state.sized()]),
        helper.make_node("Reshape", [state.output, shape], [row]),
        helper.make_node("ScatterND", [arena(state), index, row], [next_arena(state)]),
    ]
