"""A stranger's ONNX file made servable: its states found or lifted out, its axes named, and both proven by running it."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from statecell.spec import BATCH, SEQ_LEN, SPEC_KEY, ModelSpec, Shape, SpecError, StateSpec, TensorSpec

from statecell_export import states as found_states
from statecell_export.axes import SIZES, NoSymbolError, symbolic
from statecell_export.errors import GraphRefusedError
from statecell_export.example import parse
from statecell_export.graph import next_state, value_info
from statecell_export.grid import Case, Ledger, cases, chunked, chunks, difference, long_cases
from statecell_export.recipes import ONNX
from statecell_export.report import Proof, Report, describe, versions
from statecell_export.repository import check_name, new_version
from statecell_export.runners import Arrays, Runner, runner
from statecell_export.stranger import Value, load, nested, random, recurrent_nodes, run, values, watched, with_constants

_TIME = ("seq", "time", "len", "frame", "step", "sample")
_MOST_GUESSES = 64


def adopt(
    path: str | Path,
    *,
    name: str,
    out: str | Path = "models",
    version: int = 1,
    states: Mapping[str, str] | None = None,
    constants: Mapping[str, str] | None = None,
    example: Sequence[str] = (),
) -> Report:
    """Put an ONNX file from anywhere into the repository, with a spec inside.

    >>> adopt("vad.onnx", name="vad", states={"state": "stateN"}, constants={"sr": "16000"})

    states: state input -> output, where names and shapes do not tell. constants: inputs that are to have one value, as text.
    example: lines such as "input:float32[batch,512]", where the file leaves open which axis is what.

    Raises GraphRefusedError, ExampleError, VerificationError; nothing is written then.
    """
    began = time.perf_counter()
    check_name(name, version)
    original = load(Path(path))
    constants = constants or {}
    fixed = with_constants(original, constants)
    adoption = _Adoption(name, fixed, {spec.name: spec for spec in map(parse, example)})
    model, spec = adoption.adopt(states or {})
    helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | {SPEC_KEY: spec.to_json()})
    with new_version(out, name, version) as folder:
        onnx.save(model, folder / ONNX)
        proof = _prove(spec, fixed, runner(folder / ONNX, spec))
        report = Report(
            spec=spec,
            path=Path(out) / name / str(version),
            recipe="adopt",
            form="as it was",
            proof=proof,
            accuracy=proof.worst,
            ranges={tensor.name: (0, 1) for tensor in spec.inputs if np.dtype(tensor.dtype).kind != "f"},
            artifacts={ONNX: describe(folder / ONNX)},
            versions=versions(),
            seconds=round(time.perf_counter() - began, 3),
            notes=tuple(f"input {key!r} is {value}" for key, value in constants.items()),
        )
        (folder / "report.json").write_text(report.to_json())
    return report


@dataclass(frozen=True)
class _Trial:
    """The model run at SIZES under one guess of what its axes are."""

    shapes: dict[str, Shape]  # of the inputs
    outputs: list[Arrays]


@dataclass(frozen=True)
class _Adoption:
    name: str
    model: onnx.ModelProto
    lines: dict[str, TensorSpec]

    def adopt(self, named: Mapping[str, str]) -> tuple[onnx.ModelProto, ModelSpec]:
        """The model with its states in its signature, and its spec."""
        inputs, outputs = values(self.model.graph.input), values(self.model.graph.output)
        unknown = sorted(set(self.lines) - {value.name for value in inputs})
        if unknown:
            raise GraphRefusedError(f"example {unknown[0]!r} is no input; the inputs are {', '.join(v.name for v in inputs)}")
        pairs = found_states.pairs(inputs, outputs, named)
        nodes = [] if pairs else recurrent_nodes(self.model)
        watch = [n for node in nodes for n in (node.input[0], *filter(None, found_states.initial(node)))]
        trial = self.try_axes(inputs, pairs, nodes, watch)
        shapes = {value.name: self.shape_of(value.name, trial) for value in outputs}
        given = [
            StateSpec(before, after, next(v.dtype for v in inputs if v.name == before), trial.shapes[before])
            for before, after in pairs.items()
        ]
        reason = self.unliftable(nodes, watch, trial) if not pairs else ""
        if not pairs and not nodes and not nested(self.model):
            raise GraphRefusedError(
                "the model has no LSTM, GRU or RNN node and no state in its signature; name one by --state IN:OUT"
            )
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        lifted = [] if pairs or reason else self.lift(model, trial, watch)
        carried = {state.output for state in given}
        try:
            spec = ModelSpec(
                name=self.name,
                inputs=tuple(TensorSpec(v.name, v.dtype, trial.shapes[v.name]) for v in inputs if v.name not in pairs),
                outputs=tuple(TensorSpec(v.name, v.dtype, shapes[v.name]) for v in outputs if v.name not in carried),
                states=(*given, *lifted),
                streamable=not reason,
                reason=reason,
                min_batch=2 if any(node.op_type == "RNN" for node in recurrent_nodes(model)) else 1,
            )
        except SpecError as error:
            raise GraphRefusedError(f"the states do not fit: {error}") from None
        del model.graph.input[:], model.graph.output[:], model.graph.value_info[:]
        model.graph.input.extend(value_info(t) for t in (*spec.inputs, *(s.tensor for s in spec.states)))
        model.graph.output.extend(value_info(t) for t in (*spec.outputs, *map(next_state, spec.states)))
        if spec.streamable:
            spec = replace(spec, **_streamable(spec, run(model)))
        return model, spec

    def try_axes(
        self, inputs: Sequence[Value], pairs: Mapping[str, str], nodes: Sequence[onnx.NodeProto], watch: Sequence[str]
    ) -> _Trial:
        """The likeliest guess that runs and agrees with what the recurrent nodes and the states see. Raises GraphRefusedError."""
        call = run(watched(self.model, watch))
        problem = ""
        for shapes in itertools.islice(self.guesses(inputs, pairs), _MOST_GUESSES):
            generator = np.random.default_rng(0)
            try:
                outputs = [
                    call(
                        {
                            v.name: random(
                                v.dtype, TensorSpec(v.name, v.dtype, shapes[v.name]).sized(seq_len=t, batch=b), generator
                            )
                            for v in inputs
                        }
                    )
                    for t, b in SIZES
                ]
            except GraphRefusedError as error:
                problem = problem or str(error)
                continue
            if self.agrees(shapes, outputs, pairs, nodes, watch):
                return _Trial(shapes, outputs)
        asked = ", ".join(
            f'"{v.name}:{v.dtype}[{",".join(str(d or "?") for d in v.dims)}]"' for v in inputs if v.name not in pairs
        )
        raise GraphRefusedError(
            f"cannot tell which axes of the inputs are seq_len and batch{f' ({problem})' if problem else ''}; name them by --example, "
            f"as in {asked} with seq_len, batch or a size for each open axis; fix an input that selects something by --constant"
        )

    def guesses(self, inputs: Sequence[Value], pairs: Mapping[str, str]) -> Iterator[dict[str, Shape]]:
        """Every way to name the open axes; those that their names suggest first."""
        dims = {v.name: self.lines[v.name].shape if v.name in self.lines else _opened(v) for v in inputs}
        fixed = {SEQ_LEN, BATCH} if self.lines else set()
        open_axes = list(dict.fromkeys(d for shape in dims.values() for d in shape if isinstance(d, str) and d not in fixed))
        ways = list(itertools.product((BATCH, SEQ_LEN), repeat=len(open_axes)))
        ways.sort(key=lambda way: -sum(_suits(axis, symbol) for axis, symbol in zip(open_axes, way, strict=True)))
        for way in ways:
            names = dict(zip(open_axes, way, strict=True))
            shapes = {name: tuple(names.get(d, d) if isinstance(d, str) else d for d in shape) for name, shape in dims.items()}
            once = all(shape.count(symbol) <= 1 for shape in shapes.values() for symbol in (BATCH, SEQ_LEN))
            if once and not any(SEQ_LEN in shapes[state] for state in pairs):
                yield shapes

    def agrees(
        self,
        shapes: Mapping[str, Shape],
        outputs: Sequence[Arrays],
        pairs: Mapping[str, str],
        nodes: Sequence[onnx.NodeProto],
        watch: Sequence[str],
    ) -> bool:
        """Whether the first recurrent node sees these sizes, and each state comes out as it went in."""
        symbols = {symbol for shape in shapes.values() for symbol in shape}
        for (seq_len, batch), got in zip(SIZES, outputs, strict=True):
            for before, after in pairs.items():
                if got[after].shape != TensorSpec(before, "float32", shapes[before]).sized(batch=batch):
                    return False
            if nodes:
                seen = got[f"watched/{watch.index(nodes[0].input[0])}"].shape
                if (SEQ_LEN in symbols and seen[0] != seq_len) or (BATCH in symbols and seen[1] != batch):
                    return False
        return True

    def shape_of(self, output: str, trial: _Trial) -> Shape:
        try:
            return symbolic([got[output].shape for got in trial.outputs])
        except NoSymbolError as error:
            raise GraphRefusedError(f"output {output!r} {error}") from None

    def unliftable(self, nodes: Sequence[onnx.NodeProto], watch: Sequence[str], trial: _Trial) -> str:
        """Why the states inside cannot be lifted out, "" where they can."""
        inside = nested(self.model)
        if inside:
            return f"{inside[0]} keeps its state inside; export the model with the state as an input and an output"
        for node in nodes:
            where = f"node {node.name!r} ({node.op_type})"
            if found_states.direction(node) != "forward":
                return f"{where} is {found_states.direction(node)}: it begins at the end of the sequence"
            for name in filter(None, found_states.initial(node)):
                if any(got[f"watched/{watch.index(name)}"].any() for got in trial.outputs):
                    return f"{where} begins with a learned or computed state {name!r}; export the model with that state as an input"
        return ""

    def lift(self, model: onnx.ModelProto, trial: _Trial, watch: Sequence[str]) -> list[StateSpec]:
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        nodes = recurrent_nodes(model)
        rows = {got[f"watched/{watch.index(node.input[0])}"].shape[1] for node in nodes for got in trial.outputs}
        fixed = rows.pop() if len(rows) == 1 else None
        return found_states.lift(model, nodes, [found_states.hidden_size(node, constants) for node in nodes], fixed)


def _opened(value: Value) -> Shape:
    return tuple(f"{value.name}/{axis}" if size is None else size for axis, size in enumerate(value.dims))


def _suits(axis: str, symbol: str) -> int:
    """Whether an axis's own name says what it is."""
    like_time = any(part in axis.lower() for part in _TIME)
    return int((symbol == SEQ_LEN) == like_time)


def _feed(spec: ModelSpec, case: Case, generator: np.random.Generator) -> Arrays:
    feed = {t.name: random(t.dtype, t.sized(seq_len=case.seq_len, batch=case.batch), generator) for t in spec.inputs}
    for state in spec.states:
        fresh = state.fresh(case.batch)
        feed[state.input] = random(state.dtype, fresh.shape, generator) if case.state == "random" else fresh
    return feed


def _streamable(spec: ModelSpec, call: Runner) -> dict[str, bool | str]:
    """What running in chunks says."""
    if not spec.has_time:
        return {}
    for output in spec.outputs:
        if output.time_axis is None:
            return {"streamable": False, "reason": f"output {output.name!r} has no time axis: it is one for a whole sequence"}
    for case in long_cases(spec):
        changed = difference(spec, call, _feed(spec, case, np.random.default_rng(1)), 1e-5)
        if changed:
            return {"streamable": False, "reason": f"{changed}: the model looks across time steps"}
    return {}


def _prove(spec: ModelSpec, model: onnx.ModelProto, adopted: Runner) -> Proof:
    """The adopted model against the file as it was, `model`, and against itself in chunks."""
    widest = max((max(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) > 1), default=1)
    ledger, generator = Ledger((2 * widest) ** 0.5 * 2.0**-24), np.random.default_rng(2)
    original, takes = run(model), {value.name for value in values(model.graph.input)}
    lifted = any(state.input not in takes for state in spec.states)
    for case in cases(spec):
        feed = _feed(spec, case, generator)
        if case.state == "zero" or not lifted:
            want = original({name: array for name, array in feed.items() if name in takes})
            ledger.check(ONNX, f"whole, {case}", adopted(feed), want, want)
    for case in long_cases(spec) if spec.streamable else ():
        feed = _feed(spec, case, generator)
        parts = chunks(spec, feed)
        want = adopted(feed) if spec.has_time else chunked(spec, original, parts)
        ledger.check(ONNX, f"in chunks, {case}", chunked(spec, adopted, parts), want, want)
    return Proof(spec.streamable, spec.reason, "float32, the file as it was", ledger.cases, ledger.worst, ledger.tolerance)
