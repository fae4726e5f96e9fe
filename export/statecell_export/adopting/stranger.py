"""An ONNX file from anywhere, before it has a spec: its signature, its recurrent nodes, and trial runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from statecell_export.errors import GraphRefusedError
from statecell_export.proving.runners import ORT_ERRORS, Arrays, Runner, ort_session, shapes
from statecell_export.reading.recurrent import Array
from statecell_export.writing.graph import graphs

RECURRENT = ("LSTM", "GRU", "RNN")
QUANTIZED = "DynamicQuantizeLSTM"


@dataclass(frozen=True)
class Value:
    """A declared input or output: sizes, names of sizes, or None where the file says nothing."""

    name: str
    dtype: str
    dims: tuple[int | str | None, ...]


def load(path: Path) -> onnx.ModelProto:
    """The file's model, which ONNX Runtime can load. Raises GraphRefusedError."""
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
        run(model)
    except FileNotFoundError:
        raise GraphRefusedError(f"{path} does not exist") from None
    except DecodeError:
        raise GraphRefusedError(f"{path} is not an ONNX file; export one with torch.onnx.export or give another") from None
    except (onnx.checker.ValidationError, *ORT_ERRORS) as error:
        reason = str(error).strip().splitlines()[0]
        raise GraphRefusedError(
            f"{path} cannot be loaded: {reason}; ONNX Runtime's own operators are known, no others"
        ) from None
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


def run(model: onnx.ModelProto) -> Runner:
    """Runs the model by names. Raises GraphRefusedError when it fails."""
    session = ort_session(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]

    def call(feed: Arrays) -> Arrays:
        try:
            return dict(zip(names, session.run(names, feed), strict=True))
        except ORT_ERRORS as error:
            raise GraphRefusedError(f"the model fails on {shapes(feed)}: {str(error).strip().splitlines()[-1]}") from None

    return call


def values(infos: Sequence[onnx.ValueInfoProto]) -> list[Value]:
    """Declared inputs or outputs. Raises GraphRefusedError for what is not a tensor."""
    found = []
    for info in infos:
        if not info.type.HasField("tensor_type"):
            raise GraphRefusedError(
                f"{info.name!r} is no tensor but {info.type.WhichOneof('value')}; only tensors can be served"
            )
        kind = info.type.tensor_type
        dims = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim)
        found.append(Value(info.name, helper.tensor_dtype_to_np_dtype(kind.elem_type).name, dims))
    return found


def with_constants(model: onnx.ModelProto, constants: Mapping[str, str]) -> onnx.ModelProto:
    """A copy in which these inputs have a fixed value. Raises GraphRefusedError."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    known = {value.name: value for value in values(model.graph.input)}
    for name, text in constants.items():
        if name not in known:
            raise GraphRefusedError(f"constant {name!r} is no input of the model; its inputs are {', '.join(known)}")
        value = known[name]
        try:
            array = np.array(text.split(","), np.float64).astype(value.dtype)
            array = array.reshape([size if isinstance(size, int) else 1 for size in value.dims])
        except ValueError:
            raise GraphRefusedError(f"constant {name}={text} does not fit {name} {value.dtype}{list(value.dims)}") from None
        fixed.graph.initializer.append(numpy_helper.from_array(array, name))
    inputs = [info for info in fixed.graph.input if info.name not in constants]
    del fixed.graph.input[:]
    fixed.graph.input.extend(inputs)
    return fixed


def recurrent_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The recurrent nodes of the outer graph."""
    return [node for node in model.graph.node if node.op_type in RECURRENT and node.domain in {"", "ai.onnx"}]


def stateful_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The recurrent nodes and ONNX Runtime's quantized LSTM, whose initial and last states stand in the same places."""
    return [*recurrent_nodes(model), *(node for node in model.graph.node if node.op_type == QUANTIZED)]


def nested(model: onnx.ModelProto) -> list[str]:
    """The recurrent nodes that are inside others or inside functions, as "LSTM in If 'name'"."""
    found = [f"{QUANTIZED} {node.name!r}" for node in model.graph.node if node.op_type == QUANTIZED]
    for outer in model.graph.node:
        for attribute in outer.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                inner = [node.op_type for level in graphs(graph) for node in level.node if node.op_type in RECURRENT]
                found.extend(f"{kind} in {outer.op_type} {outer.name!r}" for kind in inner)
    found.extend(f"{n.op_type} in function {f.name!r}" for f in model.functions for n in f.node if n.op_type in RECURRENT)
    return found


def watched(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy that also gives these float values of its graph as outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    have = {value.name for value in copy.graph.output}
    for number, name in enumerate(names):
        copy.graph.node.append(helper.make_node("Identity", [name], [f"watched/{number}"]))
        copy.graph.output.append(helper.make_tensor_value_info(f"watched/{number}", TensorProto.FLOAT, None))
    assert not have & {f"watched/{number}" for number in range(len(names))}
    return copy


def random(dtype: str, shape: Sequence[int], generator: np.random.Generator) -> Array:
    """Standard normal floats; whole numbers of 0 and 1, which every Embedding knows."""
    if np.dtype(dtype).kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    return generator.integers(0, 2, shape).astype(dtype)
