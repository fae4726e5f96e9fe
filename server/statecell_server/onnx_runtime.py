"""OnnxRuntime: `model.onnx` in ONNX Runtime. The only place that knows it."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from statecell.spec import SPEC_KEY, TensorSpec
from statecell.tensor import Array

from statecell_server.runtime import LoadError, Plan, RunError, Runtime, read_spec

# Since 1.29 its Linux wheels report their use to their maker, unless they are told not to before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

ort.set_default_logger_severity(3)


class OnnxRuntime(Runtime):
    """On the CPU, with `threads` threads within a run."""

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Raises LoadError."""
        super().__init__()
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
        self.spec = read_spec(self._ort_session.get_modelmeta().custom_metadata_map.get(SPEC_KEY), path)
        self._check(path)

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

    def _bind(self, sides: Sequence[Sequence[TensorSpec]], arrays: Sequence[Sequence[Array]]) -> Any:
        binding = self._ort_session.io_binding()
        for place, (side, side_arrays) in enumerate(zip(sides, arrays, strict=True)):
            bind = binding.bind_input if place < 2 else binding.bind_output
            for tensor, array in zip(side, side_arrays, strict=True):
                bind(tensor.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        return binding

    def run(self, plan: Plan) -> None:
        try:
            self._ort_session.run_with_iobinding(plan.bound)
        except Exception as error:
            raise RunError(str(error)) from error
