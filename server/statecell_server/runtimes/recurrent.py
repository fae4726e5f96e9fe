"""RecurrentRuntime: a model of LSTM, GRU or RNN layers and nothing else, each step of a layer in one kernel of our own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from statecell.tensor import Array

from statecell_server.device import Device
from statecell_server.runtimes import driver, trial
from statecell_server.runtimes.onnx_device import DeviceRuntime
from statecell_server.runtimes.onnx_graph import Graph
from statecell_server.runtimes.ort_session import open_session, run_once
from statecell_server.runtimes.recurrent_kernel import launcher
from statecell_server.runtimes.recurrent_run import RecurrentRun, Weights
from statecell_server.runtimes.runtime import DeviceError, LoadError, RunError, Sides
from statecell_server.runtimes.stack import NotRecurrent, read_stack

AGREEMENT = 1e-4
"""Largest difference from ONNX Runtime's results, of numbers between -1 and 1; a graph that is misread gives another 0.1."""
STEPS, TRIED = 3, 2
"""seq_len and batch of the comparison."""


class RecurrentRuntime(DeviceRuntime):
    """Where `DeviceRuntime` has ONNX Runtime between two moves of rows, this reads the arena, steps and writes it at once.

    A row's result is the same to the bit in any run. ONNX Runtime checks the model, on the CPU.
    """

    def __init__(self, path: Path, threads: int = 1, device: Device | None = None, memory: int = 0) -> None:
        """Raises NotRecurrent where the model is another, or ONNX Runtime gives something else; LoadError, DeviceError."""
        super().__init__(path, threads, device, memory)
        assert self._staging is not None
        try:
            self._stack = read_stack(Graph.read(self._content), self.spec)
        except ValueError as error:
            raise NotRecurrent(str(error)) from error
        del self._content
        try:
            self._weights = [Weights(self._staging.stream, layer) for layer in self._stack.layers]
            self._launch = launcher(self._staging.stream)
        except driver.CudaError as error:
            raise LoadError(f"{path} cannot be loaded on {self.device}: {error}") from error
        taken = sum(weights.size for weights in self._weights)
        if memory and taken > memory:
            raise DeviceError(f"the weights of {path} take {taken} bytes, and --device-memory leaves {memory} for them")
        self._require_agreement()
        self._ort_session = None

    def _open(self, content: bytes, threads: int, memory: int) -> Any:  # noqa: ARG002 - it is the device's
        self._content = content
        return open_session(content, Device(), threads=threads)

    def _way(self) -> str:
        return "each layer's step is one kernel of statecell-server's own"

    def _require_agreement(self) -> None:
        """Raises NotRecurrent where random rows give another result than in ONNX Runtime on the CPU."""
        rng, spec = np.random.default_rng(0), self.spec
        x = [trial.draw(rng, t, STEPS, TRIED) for t in spec.inputs]
        states = [np.tanh(trial.draw(rng, s.tensor, 1, TRIED)) for s in spec.states]
        names = [*(t.name for t in spec.inputs), *(s.input for s in spec.states)]
        wanted = run_once(
            self._ort_session,
            dict(zip(names, [*x, *states], strict=True)),
            [*(t.name for t in spec.outputs), *(s.output for s in spec.states)],
        )
        try:
            outputs, after = trial.run(self, trial.arena(self, TRIED), x, states, STEPS, TRIED)
        except RunError as error:
            raise NotRecurrent(f"its kernels cannot be run on {self.device}: {error}") from error
        scales = [max(1.0, float(np.abs(b).max())) for b in wanted]
        worst = max(float(np.abs(a - b).max()) / s for a, b, s in zip([*outputs, *after], wanted, scales, strict=True))
        if not worst <= AGREEMENT:
            raise NotRecurrent(f"its graph reads as LSTM, GRU or RNN layers, but their results differ by {worst:.1e}")

    def _bind(self, sides: Sides, arrays: Sequence[Sequence[Array]]) -> Any:  # noqa: ARG002 - there is one x and one y
        assert self._staging is not None
        (x,), slots, (y,) = arrays[0], arrays[1], arrays[2]
        return RecurrentRun(
            self._stack, self._weights, self._launch, self._staging, self.spec.states, self._arena.memories, x, slots, y
        )
