"""Runtime: one loaded model. The only place that knows ONNX Runtime."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from statecell.spec import SPEC_KEY, ModelSpec, SpecError, TensorSpec
from statecell.tensor import Array

ort.set_default_logger_severity(3)

PLANS = 1024
"""Bindings kept at most; one costs a few hundred bytes beside the buffers that all share."""


class LoadError(Exception):
    """The operator's fault: the file is no model, has no spec, or its graph is not what its spec says."""


class RunError(Exception):
    """ONNX Runtime refused the run; the message is its own."""


@dataclass(frozen=True)
class Plan:
    """One (seq_len, batch): arrays to fill, a call, arrays to read. The arrays are shared by all plans of a Runtime."""

    inputs: list[Array]
    states: list[Array]
    outputs: list[Array]
    next_states: list[Array]
    binding: "ort.IOBinding"


class Runtime:
    """Runs `model.onnx` on one device. Not for two threads at once."""

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            content = path.read_bytes()
            self._ort_session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise LoadError(f"{path} cannot be loaded: {error}") from error
        self.digest = hashlib.sha256(content).hexdigest()
        self.device = "cpu"
        text = self._ort_session.get_modelmeta().custom_metadata_map.get(SPEC_KEY)
        if text is None:
            raise LoadError(f"{path} carries no {SPEC_KEY}; give it one with: statecell-export adopt {path}")
        try:
            self.spec = ModelSpec.from_json(text)
        except SpecError as error:
            raise LoadError(f"{path}: {error}") from error
        self._check(path)
        self._buffers: dict[str, Array] = {}
        self._plans: dict[tuple[int, int], Plan] = {}

    def _check(self, path: Path) -> None:
        """The graph must have what the spec promises; what it lacks would fail at the first call otherwise."""
        spec = self.spec
        for kind, promised, nodes in (
            ("input", [t.name for t in spec.inputs] + [s.input for s in spec.states], self._ort_session.get_inputs()),
            ("output", [t.name for t in spec.outputs] + [s.output for s in spec.states], self._ort_session.get_outputs()),
        ):
            names = [node.name for node in nodes]
            if sorted(promised) != sorted(names) and (kind == "input" or set(promised) - set(names)):
                raise LoadError(f"{path} has the {kind}s {names}, its spec says {promised}")

    def _array(self, key: str, shape: tuple[int, ...], dtype: str) -> Array:
        """A view of `shape` on the buffer of this name."""
        size = int(np.prod(shape, dtype=np.int64))
        buffer = self._buffers.get(key)
        if buffer is None or buffer.size < size:
            # Bindings hold addresses of the old buffer.
            self._plans.clear()
            buffer = self._buffers[key] = np.zeros(max(size, 2 * buffer.size if buffer is not None else 0), dtype)
        return buffer[:size].reshape(shape)

    def plan(self, seq_len: int, batch: int) -> Plan:
        """Arrays and bindings for runs of `seq_len` steps and `batch` rows."""
        plan = self._plans.get((seq_len, batch))
        if plan is None:
            plan = self._bind(seq_len, batch)
            if len(self._plans) >= PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[seq_len, batch] = plan
        return plan

    def _bind(self, seq_len: int, batch: int) -> Plan:
        spec = self.spec
        next_states = [TensorSpec(s.output, s.dtype, s.shape) for s in spec.states]
        sides: tuple[Sequence[TensorSpec], ...] = (spec.inputs, [s.tensor for s in spec.states], spec.outputs, next_states)
        arrays: list[list[Array]] = []
        for kind, side in zip(("in", "in", "out", "out"), sides, strict=True):
            arrays.append([self._array(f"{kind}:{t.name}", t.sized(seq_len=seq_len, batch=batch), t.dtype) for t in side])
        binding = self._ort_session.io_binding()
        for i, side in enumerate(sides):
            bind = binding.bind_input if i < 2 else binding.bind_output
            for tensor, array in zip(side, arrays[i], strict=True):
                bind(tensor.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        return Plan(arrays[0], arrays[1], arrays[2], arrays[3], binding)

    def run(self, plan: Plan) -> None:
        """Fills the plan's outputs and next states. Raises RunError."""
        try:
            self._ort_session.run_with_iobinding(plan.binding)
        except Exception as error:
            raise RunError(str(error)) from error
