"""A stranger's ONNX file made servable: its states found or lifted out, its axes named, and both proven by running it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from statecell.spec import SEQ_LEN, SPEC_KEY, ModelSpec, SpecError, StateSpec, TensorSpec

from statecell_export.adopting.across import Across
from statecell_export.adopting.flow import Flow
from statecell_export.adopting.judge import judge
from statecell_export.adopting.mixing import cut_reason, feed_of, refuse_mixed_rows
from statecell_export.adopting.states import direction, expanded, followed_pairs, hidden_size, pairs_in
from statecell_export.adopting.states import initial as initial_states
from statecell_export.adopting.states import lift as lift_states
from statecell_export.adopting.stranger import load, nested, recurrent_nodes, run, values, with_constants
from statecell_export.adopting.trial import Trial, try_axes
from statecell_export.errors import GraphRefusedError
from statecell_export.proving.grid import Ledger, cases, chunked, chunks, long_cases
from statecell_export.proving.runners import Runner, runner, signature_in, signature_out
from statecell_export.reading.lines import parse
from statecell_export.report import Proof, Report, describe, versions
from statecell_export.repository import check_name, new_version
from statecell_export.writing.graph import value_info
from statecell_export.writing.recipes import ONNX


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

    states: state input -> output, where names and shapes do not tell; {"cached_*": "new_cached_*"} for several.
    constants: inputs that are to have one value, as text.
    example: lines such as "input:float32[batch,512]", where the file leaves open which axis is what.

    Raises GraphRefusedError, ExampleError, VerificationError; nothing is written then.
    """
    began = time.perf_counter()
    check_name(name, version)
    original = load(Path(path))
    constants = constants or {}
    fixed = with_constants(original, constants)
    named = expanded(states or {}, [value.name for value in fixed.graph.input])
    model, spec = _with_spec(fixed, name, named=named, lines={line.name: line for line in map(parse, example)})
    helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | {SPEC_KEY: spec.to_json()})
    with new_version(out, name, version) as folder:
        onnx.save(model, folder / ONNX)
        proof = _prove(spec, fixed, runner(folder / ONNX, spec))
        judged = judge(Path(path), folder / ONNX, spec, constants) if spec.streamable else []
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
            notes=(
                *(f"input {key!r} is {value}" for key, value in constants.items()),
                *(f"state {state.input!r} is carried on by {state.output!r}" for state in spec.states),
                *judged,
            ),
        )
        (folder / "report.json").write_text(report.to_json())
    return report


def _with_spec(
    file: onnx.ModelProto, name: str, named: Mapping[str, str], lines: Mapping[str, TensorSpec]
) -> tuple[onnx.ModelProto, ModelSpec]:
    """The model with its states in its signature, and its spec."""
    inputs, outputs = values(file.graph.input), values(file.graph.output)
    for line in lines:
        if line not in {value.name for value in inputs}:
            raise GraphRefusedError(f"example {line!r} is no input; the inputs are {', '.join(value.name for value in inputs)}")
    pairs = pairs_in(inputs, outputs, named, {} if named else followed_pairs(file), Flow(file).sources)
    if not pairs and not recurrent_nodes(file) and not nested(file):
        raise GraphRefusedError(
            "the model has no LSTM, GRU or RNN node and no state in its signature; name one by --state IN:OUT"
        )
    constants = {tensor.name: tensor for tensor in file.graph.initializer}
    for node in recurrent_nodes(file):
        weights = constants.get(node.input[1])
        if weights is not None and weights.data_type != onnx.TensorProto.FLOAT:
            dtype = helper.tensor_dtype_to_np_dtype(weights.data_type).name
            raise GraphRefusedError(
                f"node {node.name!r} ({node.op_type}) has {dtype} weights, float32 is expected; convert the file"
            )
    trial = try_axes(file, pairs, lines)
    for node in recurrent_nodes(file):
        if not all(np.isfinite(value).all() for value in trial.seen(node.input[0])):
            raise GraphRefusedError(
                f"node {node.name!r} ({node.op_type}) is given {node.input[0]!r}, which is not finite for standard normal "
                f"values of {', '.join(trial.shapes)}: nothing can be proven there; give a file that takes any numbers"
            )
    model = onnx.ModelProto()
    model.CopyFrom(file)
    reason = _unliftable(file, trial, pairs)
    given = [StateSpec(v.name, pairs[v.name], v.dtype, trial.shapes[v.name]) for v in inputs if v.name in pairs]
    lifted = [] if reason else _lift(model, trial)
    try:
        spec = ModelSpec(
            name=name,
            inputs=tuple(TensorSpec(v.name, v.dtype, trial.shapes[v.name]) for v in inputs if v.name not in pairs),
            outputs=tuple(TensorSpec(v.name, v.dtype, trial.shape_of(v.name)) for v in outputs if v.name not in pairs.values()),
            states=(*given, *lifted),
            streamable=not reason,
            reason=reason,
            min_batch=2 if any(node.op_type == "RNN" for node in recurrent_nodes(model)) else 1,
        )
    except SpecError as error:
        raise GraphRefusedError(f"the states do not fit: {error}") from None
    del model.graph.input[:], model.graph.output[:], model.graph.value_info[:]
    model.graph.input.extend(map(value_info, signature_in(spec)))
    model.graph.output.extend(map(value_info, signature_out(spec)))
    refuse_mixed_rows(spec, run(model))
    reason = reason or _across_reason(spec, model) or cut_reason(spec, run(model))
    return model, replace(spec, streamable=not reason, reason=reason)


def _unliftable(model: onnx.ModelProto, trial: Trial, pairs: Mapping[str, str]) -> str:
    """Why states inside cannot be lifted out, "" where they can, or where the signature has them."""
    flow, has_time = Flow(model), any(SEQ_LEN in shape for shape in trial.shapes.values())
    for node in recurrent_nodes(model):
        where = f"node {node.name!r} ({node.op_type})"
        if has_time and not trial.over_time(node):
            continue  # it begins anew within each step
        if direction(node) != "forward":
            return f"{where} is {direction(node)}: it begins at the end of the sequence"
        if len(node.input) > 4 and node.input[4]:
            return f"{where} takes sequence_lens {node.input[4]!r}, which speak of whole sequences; export it without lengths"
        if _carried(flow, node, pairs):
            continue
        if not _zeros(flow, node):
            initial = ", ".join(dict.fromkeys(filter(None, initial_states(node))))
            return f"{where} begins with a learned or computed state {initial!r}; export the model with that state as an input"
        if not has_time:
            return (
                f"{where} begins every call with zeros, at a fixed seq_len; export the model with a dynamic seq_len to step it"
            )
    inside = [] if pairs else nested(model)
    return f"{inside[0]} keeps its state inside; export the model with the state as an input and an output" if inside else ""


def _carried(flow: Flow, node: onnx.NodeProto, pairs: Mapping[str, str]) -> bool:
    """Whether each initial state of a node is moved from states in the signature."""
    names = initial_states(node)
    return all(name and any(origin.name in pairs for origin in flow.origins(name)) for name in names)


def _zeros(flow: Flow, node: onnx.NodeProto) -> bool:
    """Whether a node has no initial state, or one that the graph itself makes of zeros."""
    return all(origin.kind == "zeros" for name in filter(None, initial_states(node)) for origin in flow.origins(name))


def _lift(model: onnx.ModelProto, trial: Trial) -> list[StateSpec]:
    """Lift out what begins with zeros; the other states are in the signature."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    flow = Flow(model)
    nodes = [node for node in recurrent_nodes(model) if trial.over_time(node) and _zeros(flow, node)]
    sizes = [(hidden_size(node, constants), trial.rows(node)) for node in nodes]
    return lift_states(model, nodes, sizes)


def _across_reason(spec: ModelSpec, model: onnx.ModelProto) -> str:
    """Which operator the outputs hang on that looks across time steps, whatever the numbers; "" where none is known."""
    found = Across(model, [state.output for state in spec.states]).reason() if spec.has_time else ""
    return f"{found}: the model looks across time steps" if found else ""


def _prove(spec: ModelSpec, model: onnx.ModelProto, adopted: Runner) -> Proof:
    """The adopted model against the file as it was, `model`, and against itself in chunks."""
    widest = max((max(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) > 1), default=1)
    ledger, generator = Ledger((2 * widest) ** 0.5 * 2.0**-24), np.random.default_rng(2)
    original, takes = run(model), {value.name for value in values(model.graph.input)}
    lifted = any(state.input not in takes for state in spec.states)
    for case in cases(spec):
        feed = feed_of(spec, case, generator)
        if case.state == "zero" or not lifted:
            want = original({name: array for name, array in feed.items() if name in takes})
            for key, array in want.items():
                if not np.isfinite(array).all():
                    raise GraphRefusedError(
                        f"output {key!r} is not finite for standard normal values of {', '.join(feed)} ({case}): nothing can "
                        "be proven there; give a file that takes any numbers"
                    )
            ledger.check(ONNX, f"whole, {case}", adopted(feed), want, want)
    for case in long_cases(spec) if spec.streamable else ():
        feed = feed_of(spec, case, generator)
        parts = chunks(spec, feed)
        want = adopted(feed) if spec.has_time else chunked(spec, original, parts)
        ledger.check(ONNX, f"in chunks, {case}", chunked(spec, adopted, parts), want, want)
    return Proof(
        spec.streamable, spec.reason, "float32, the file as it was", ledger.cases, ledger.worst, ledger.tolerance, ledger.own
    )
