"""A file as a readable table: its spec, nodes, sizes, opset and states, and whether it can be stepped."""

from collections import Counter
from pathlib import Path

import onnx
import torch
from rich.markup import escape
from rich.table import Table
from statecell.spec import ModelSpec

from statecell_export.adopting import states as found_states
from statecell_export.adopting.stranger import load, nested, recurrent_nodes, values
from statecell_export.artifacts import open_version, read_spec
from statecell_export.errors import ExportError
from statecell_export.writing.graph import graphs
from statecell_export.writing.torchscript import load as load_script


def inspect(path: Path) -> Table:
    """A table of a .onnx or .pt file, or of a version's first artifact. Raises ExportError."""
    if path.is_dir():
        version = open_version(path)
        path = version.folder / version.files[0]
    table = Table("what", "value", title=str(path), title_justify="left", show_header=False)
    table.add_row("size", f"{path.stat().st_size:,} bytes" if path.is_file() else "no such file")
    if path.suffix == ".pt":
        spec, (script, _) = read_spec(path), load_script(path)
        _weights(table, sum(p.numel() for p in script.parameters()))
        table.add_row(
            "calls",
            ", ".join(
                f"{kind} x{count}" for kind, count in Counter(n.kind() for n in script.inlined_graph.nodes()).most_common(8)
            ),
        )
        _add_spec(table, spec)
        return table
    model = load(path)
    table.add_row("opset", ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import))
    table.add_row("made by", f"{model.producer_name} {model.producer_version}".strip() or "unknown")
    nodes = Counter(node.op_type for graph in graphs(model.graph) for node in graph.node)
    table.add_row("nodes", ", ".join(f"{kind} x{count}" for kind, count in nodes.most_common()))
    _weights(table, sum(_elements(tensor) for graph in graphs(model.graph) for tensor in graph.initializer))
    try:
        _add_spec(table, read_spec(path))
    except ExportError:
        _add_stranger(table, model)
    return table


def _elements(tensor: onnx.TensorProto) -> int:
    return int(torch.Size(tensor.dims).numel())


def _weights(table: Table, count: int) -> None:
    table.add_row("weights", f"{count:,}")


def _shape(dims: tuple[int | str | None, ...]) -> str:
    return escape(f"[{', '.join('?' if size is None else str(size) for size in dims)}]")


def _add_spec(table: Table, spec: ModelSpec) -> None:
    table.add_section()
    table.add_row("model", spec.name)
    for tensor in spec.inputs:
        table.add_row("input", f"{tensor.name} {tensor.dtype}{_shape(tensor.shape)}")
    for tensor in spec.outputs:
        table.add_row("output", f"{tensor.name} {tensor.dtype}{_shape(tensor.shape)}")
    for state in spec.states:
        table.add_row(
            "state", f"{state.input} -> {state.output} {state.dtype}{_shape(state.shape)}, begins at {state.initial:g}"
        )
    table.add_row("streamable", "yes" if spec.streamable else f"no: {escape(spec.reason)}")


def _add_stranger(table: Table, model: onnx.ModelProto) -> None:
    table.add_section()
    inputs, outputs = values(model.graph.input), values(model.graph.output)
    for kind, listed in (("input", inputs), ("output", outputs)):
        for value in listed:
            table.add_row(kind, f"{value.name} {value.dtype}{_shape(value.dims)}")
    for before, after in found_states.pairs_in(inputs, outputs, {}).items():
        table.add_row("state", f"{before} -> {after}, by name and shape")
    for node in recurrent_nodes(model):
        absent = (
            "no initial state"
            if not any(found_states.initial(node))
            else f"begins with {', '.join(found_states.initial(node))}"
        )
        table.add_row("recurrent", f"{node.op_type} {node.name!r}, {found_states.direction(node)}, {absent}")
    for inside in nested(model):
        table.add_row("recurrent", inside)
    table.add_row("spec", "none inside; statecell-export adopt gives it one")
