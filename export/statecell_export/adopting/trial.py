"""Which axes of a stranger's inputs are seq_len and batch: guessed from their names, decided by running the file."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from statecell.spec import BATCH, SEQ_LEN, Shape, TensorSpec

from statecell_export.adopting.stranger import Value, random, recurrent_nodes, run, values, watched
from statecell_export.errors import GraphRefusedError
from statecell_export.proving.runners import Arrays, Runner
from statecell_export.reading.axes import SIZES, NoSymbolError, symbolic

_TIME = ("seq", "time", "len", "frame", "step", "sample")
_MOST_GUESSES = 64


@dataclass(frozen=True)
class Trial:
    """The model run at SIZES under a guess of what its axes are.

    shapes: of its inputs. outputs: what each run gave. watch: the names of the recurrent nodes' inputs,
    whose values the runs gave too.
    """

    shapes: Mapping[str, Shape]
    outputs: Sequence[Arrays]
    watch: Sequence[str]

    def seen(self, name: str) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        """A watched value in each run."""
        return [got[f"watched/{self.watch.index(name)}"] for got in self.outputs]

    def shape_of(self, output: str) -> Shape:
        """An output's shape in symbols. Raises GraphRefusedError."""
        try:
            return symbolic([got[output].shape for got in self.outputs])
        except NoSymbolError as error:
            raise GraphRefusedError(f"output {output!r} {error}") from None

    def over_time(self, node: onnx.NodeProto) -> bool:
        """Whether a recurrent node goes along seq_len: not over frequency bins or the characters of a word."""
        return [value.shape[0] for value in self.seen(node.input[0])] == [seq_len for seq_len, _ in SIZES]

    def rows(self, node: onnx.NodeProto) -> int | None:
        """How many rows a recurrent node computes, None where that follows the batch."""
        found = {value.shape[1] for value in self.seen(node.input[0])}
        return found.pop() if len(found) == 1 else None


def try_axes(model: onnx.ModelProto, pairs: Mapping[str, str], lines: Mapping[str, TensorSpec]) -> Trial:
    """The likeliest guess that runs and agrees with what the recurrent nodes and the states see.

    pairs: the states in the signature. lines: inputs whose axes the caller named. Raises GraphRefusedError.
    """
    inputs, nodes = values(model.graph.input), recurrent_nodes(model)
    watch = [name for node in nodes for name in node.input[:1]]
    call, problem = run(watched(model, watch)), ""
    for shapes in itertools.islice(_guesses(inputs, pairs, lines), _MOST_GUESSES):
        try:
            trial = Trial(shapes, _outputs(call, inputs, shapes), watch)
        except GraphRefusedError as error:
            problem = problem or f" ({error})"
            continue
        if _agrees(trial, pairs, nodes):
            return trial
    asked = [f'"{v.name}:{v.dtype}[{",".join(str(n or "?") for n in v.dims)}]"' for v in inputs if v.name not in pairs]
    raise GraphRefusedError(
        f"cannot tell which axes of the inputs are seq_len and batch{problem}; name them by --example as in "
        f"{', '.join(asked)} with seq_len, batch or a size for each open axis; fix an input that selects by --constant"
    )


def _outputs(call: Runner, inputs: Sequence[Value], shapes: Mapping[str, Shape]) -> list[Arrays]:
    generator = np.random.default_rng(0)
    specs = [TensorSpec(value.name, value.dtype, shapes[value.name]) for value in inputs]
    return [call({t.name: random(t.dtype, t.sized(seq_len=n, batch=b), generator) for t in specs}) for n, b in SIZES]


def _guesses(inputs: Sequence[Value], pairs: Mapping[str, str], lines: Mapping[str, TensorSpec]) -> Iterator[dict[str, Shape]]:
    """Every way to name the open axes; those that their names suggest first."""
    dims = {value.name: lines[value.name].shape if value.name in lines else _opened(value) for value in inputs}
    settled = {SEQ_LEN, BATCH} if lines else set()
    axes = list(
        dict.fromkeys(size for shape in dims.values() for size in shape if isinstance(size, str) and size not in settled)
    )
    ways = list(itertools.product((BATCH, SEQ_LEN), repeat=len(axes)))
    ways.sort(key=lambda way: -sum(_suits(axis, symbol) for axis, symbol in zip(axes, way, strict=True)))
    for way in ways:
        symbols: dict[int | str, int | str] = dict(zip(axes, way, strict=True))
        shapes = {name: tuple(symbols.get(size, size) for size in shape) for name, shape in dims.items()}
        once = all(shape.count(symbol) <= 1 for shape in shapes.values() for symbol in (BATCH, SEQ_LEN))
        if once and not any(SEQ_LEN in shapes[state] for state in pairs):
            yield shapes


def _opened(value: Value) -> Shape:
    """Its declared axes; one that the file says nothing of gets a name of its own."""
    return tuple(f"{value.name}/{axis}" if size is None else size for axis, size in enumerate(value.dims))


def _suits(axis: str, symbol: str) -> bool:
    """Whether an axis's own name says what it is."""
    return (symbol == SEQ_LEN) == any(part in axis.lower() for part in _TIME)


def _agrees(trial: Trial, pairs: Mapping[str, str], nodes: Sequence[onnx.NodeProto]) -> bool:
    """Whether each state comes out as it went in, and the first recurrent node sees the sizes that the named axes have."""
    symbols = {size for shape in trial.shapes.values() for size in shape}
    for run_number, (seq_len, batch) in enumerate(SIZES):
        for before, after in pairs.items():
            size = TensorSpec(before, "float32", trial.shapes[before]).sized(batch=batch)
            if trial.outputs[run_number][after].shape != size:
                return False
        if nodes:
            seen = trial.seen(nodes[0].input[0])[run_number].shape
            if (SEQ_LEN in symbols and seen[0] != seq_len) or (BATCH in symbols and seen[1] != batch):
                return False
    return True
