"""The states of an ONNX graph: pairs in its signature, and those inside that can be lifted out."""

import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
import onnx
from onnx import helper
from statecell.spec import BATCH, Shape, StateSpec

from statecell_export.adopting.flow import Flow
from statecell_export.adopting.stranger import Value, stateful_nodes
from statecell_export.errors import GraphRefusedError
from statecell_export.reading.lift import next_name
from statecell_export.reading.recurrent import Array
from statecell_export.writing.graph import Graph

_NOISE = re.compile(
    r"(?:^|_)(?:in|out|input|output|next|new|prev|previous|last|init|initial|updated|n|0|1|t)(?=_|$)|(?<=[a-z])[nN0]$"
)


def pairs_in(
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    named: Mapping[str, str],
    followed: Mapping[str, str] | None = None,
    sources: Callable[[str], AbstractSet[str]] | None = None,
) -> dict[str, str]:
    """State input -> state output: those named by hand, else those followed, then those whose names and shapes match.

    sources: the inputs that an output is computed from. Raises GraphRefusedError; also where a name leads to an output that is
    computed from another state, and not from the one that it is named after (inputs counted from 0, outputs from 1).
    """
    by_name = {value.name: value for value in inputs}, {value.name: value for value in outputs}
    for before, after in named.items():
        for name, known, kind in ((before, by_name[0], "input"), (after, by_name[1], "output")):
            if name not in known:
                raise GraphRefusedError(f"state {before}:{after}: the model has no {kind} {name!r}, it has {', '.join(known)}")
        if not _fit(by_name[0][before], by_name[1][after]):
            raise GraphRefusedError(
                f"state {before}:{after} does not fit: {before} is {_described(by_name[0][before])}, "
                f"{after} is {_described(by_name[1][after])}"
            )
    if named:
        return dict(named)
    found = {before: after for before, after in (followed or {}).items() if _fit(by_name[0][before], by_name[1][after])}
    for value in inputs:
        if value.name in found:
            continue
        alike = [o for o in outputs if o.name not in found.values() and _stem(o.name) == _stem(value.name) and _fit(value, o)]
        if len(alike) == 1 and np.dtype(value.dtype).kind == "f" and value.dims:
            found[value.name] = alike[0].name
    if sources:
        _refuse_misnamed(found, followed or {}, inputs, by_name[1], sources)
    return found


def _refuse_misnamed(
    found: Mapping[str, str],
    followed: Mapping[str, str],
    inputs: Sequence[Value],
    outputs: Mapping[str, Value],
    sources: Callable[[str], AbstractSet[str]],
) -> None:
    """Raises GraphRefusedError where a state's output is computed from another that may be the state, and not from it."""
    for before, after in found.items():
        made_of = sources(after)
        others = [v.name for v in inputs if v.name in made_of and v.name not in {before, *followed} and _fit(v, outputs[after])]
        if before not in {*followed, *made_of} and others:
            lines = " or ".join(f"--state {name}:{after}" for name in (before, *others))
            raise GraphRefusedError(
                f"output {after!r} is named after {before!r}, but is computed from {' and '.join(sorted(made_of))}; "
                f"say of each state which output carries it on: {lines}"
            )


def followed_pairs(model: onnx.ModelProto) -> dict[str, str]:
    """State input -> state output by data flow: what a node's initial state is moved from, to where its last state is moved.

    Names only break a tie between outputs that hold the same state. Raises GraphRefusedError where it stays open.
    """
    flow = Flow(model)
    found: dict[str, str] = {}
    for node in stateful_nodes(model):
        for place, before in enumerate(initial(node), 1):
            origins = [origin.name for origin in flow.origins(before) if origin.kind == "input"] if before else []
            after = flow.reaches(list(node.output[place : place + 1]))
            if len(origins) != 1 or not after:
                continue
            alike = [name for name in after if _stem(name) == _stem(origins[0])] if len(after) > 1 else after
            if len(alike) != 1 or found.get(origins[0], alike[0]) != alike[0]:
                lines = " or ".join(f"--state {origins[0]}:{name}" for name in after)
                raise GraphRefusedError(
                    f"state {origins[0]!r} of node {node.name!r} is carried on by several outputs; say {lines}"
                )
            found[origins[0]] = alike[0]
    for after_name in set(found.values()):
        befores = [before for before, after in found.items() if after == after_name]
        if len(befores) > 1:
            lines = " or ".join(f"--state {before}:{after_name}" for before in befores)
            raise GraphRefusedError(f"output {after_name!r} carries on several states; say {lines}")
    return found


def _stem(name: str) -> str:
    """h_0, hn and h_out are all h; state and stateN are both state."""
    snake = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", name)
    while (shorter := _NOISE.sub("", snake)) not in {snake, ""}:
        snake = shorter
    return snake.lower().strip("_")


def _fit(before: Value, after: Value) -> bool:
    if not after.dims:  # an output whose shape the file does not say
        return before.dtype == after.dtype
    sizes = zip(before.dims, after.dims, strict=False)
    return (
        before.dtype == after.dtype
        and len(before.dims) == len(after.dims)
        and all(a == b for a, b in sizes if isinstance(a, int) and isinstance(b, int))
    )


def _described(value: Value) -> str:
    return f"{value.dtype}[{', '.join('?' if size is None else str(size) for size in value.dims)}]"


def initial(node: onnx.NodeProto) -> list[str]:
    """The names of a recurrent node's initial states, "" for one that is absent."""
    wanted = 2 if node.op_type.endswith("LSTM") else 1
    given = list(node.input[5 : 5 + wanted])
    return given + [""] * (wanted - len(given))


def direction(node: onnx.NodeProto) -> str:
    """forward, reverse or bidirectional."""
    return next((attribute.s.decode() for attribute in node.attribute if attribute.name == "direction"), "forward")


def lift(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], sizes: Sequence[tuple[int, int | None]]) -> list[StateSpec]:
    """Make the states of these nodes inputs and outputs of the graph, in place.

    sizes: of each, hidden_size and the number of rows where it is fixed, None where that is the batch.
    """
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
    states: list[StateSpec] = []
    for number, (node, (hidden, batch)) in enumerate(zip(nodes, sizes, strict=True)):
        inner = Graph(f"/state_{number}")
        before, after = node.input[:5], node.input[5 + len(initial(node)) :]  # after the states: an LSTM's peepholes
        node.input[:] = [*before, *[""] * (5 - len(before))]
        node.output[:] = [*node.output, *[""] * (3 - len(node.output))][: 1 + len(initial(node))]
        for place, letter in enumerate("hc"[: len(initial(node))], 1):
            name = f"{letter}_0" if len(nodes) == 1 else f"layer{number}_{letter}_0"
            while {name, next_name(name)} & taken:
                name = f"lifted_{name}"
            node.input.append(name)
            node.output[place] = node.output[place] or inner.name("state")
            inner.add_many("Identity", [node.output[place]], [next_name(name)])
            shape: Shape = (1, BATCH if batch is None else batch, hidden)
            states.append(StateSpec(name, next_name(name), "float32", shape))
        node.input.extend(after)
        model.graph.node.extend(inner.nodes)
    return states


def hidden_size(node: onnx.NodeProto, constants: Mapping[str, Array]) -> int:
    """From the attribute, else from the recurrence weights [1, gates * hidden, hidden]."""
    named = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if "hidden_size" in named:
        return int(named["hidden_size"])
    if node.input[2] in constants:
        return int(constants[node.input[2]].shape[2])
    raise GraphRefusedError(f"node {node.name!r} ({node.op_type}) has no hidden_size and its weights are computed")


def expanded(said: Mapping[str, str], inputs: Sequence[str]) -> dict[str, str]:
    """`said` with a pair for each input that a pattern such as cached_*:new_cached_* stands for."""
    found: dict[str, str] = {}
    for name, output in said.items():
        pattern = re.compile(re.escape(name).replace(r"\*", "(.*)"))
        stands_for = [match for match in map(pattern.fullmatch, inputs) if match] if name.count("*") == 1 else []
        found |= {match[0]: output.replace("*", match[1]) for match in stands_for} or {name: output}
    return found
