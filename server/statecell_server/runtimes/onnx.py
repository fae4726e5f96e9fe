"""OnnxRuntime: `model.onnx` in ONNX Runtime."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from statecell.spec import SPEC_KEY
from statecell.tensor import Array

from statecell_server.arena.plan import Plan
from statecell_server.device import Device
from statecell_server.runtimes import cuda
from statecell_server.runtimes.ort_session import Binding, Buffer, host, open_session, require, strays
from statecell_server.runtimes.runtime import LoadError, Runtime, Sides, read_spec
from statecell_server.runtimes.staging import StagedBinding, Staging
from statecell_server.runtimes.stream import stream


class OnnxRuntime(Runtime):
    """On one device, with `threads` threads within a run; a run takes its arrays from the host and leaves its own there."""

    name = "onnxruntime"
    staged = False
    """Whether arrays take the way over a device's buffers on the CPU too."""

    def __init__(self, path: Path, threads: int = 1, device: Device | None = None, memory: int = 0) -> None:
        """`memory`: see open_session. Raises LoadError, and DeviceError where it is the device's."""
        super().__init__()
        self._place = device or Device()
        if self._place.kind == "cuda":
            require(self._place)
        try:
            content = path.read_bytes()
            self._staging = Staging(stream(self._place)) if self.staged or self._place.kind == "cuda" else None
            address = self._staging.stream.address if self._staging is not None else 0
            self._ort_session = open_session(content, self._place, threads=threads, memory=memory, stream=address)
        except LoadError:
            raise
        except Exception as error:
            raise LoadError(f"{path} cannot be loaded: {error}") from error
        self.digest = hashlib.sha256(content).hexdigest()
        self.device = str(self._place)
        if self._place.kind == "cuda":
            away = strays(self._ort_session, "CUDAExecutionProvider")
            self.note = "; ".join(filter(None, (cuda.described(self._place.index), away)))
        self.spec = read_spec(self._ort_session.get_modelmeta().custom_metadata_map.get(SPEC_KEY), path)
        self._check(path)

    def _check(self, path: Path) -> None:
        """The graph must have what the spec promises; what it lacks would fail at the first call otherwise."""
        inputs, outputs = self._promised()
        for kind, promised, nodes in (
            ("input", inputs, self._ort_session.get_inputs()),
            ("output", outputs, self._ort_session.get_outputs()),
        ):
            names = [node.name for node in nodes]
            if sorted(promised) != sorted(names) and (kind == "input" or set(promised) - set(names)):
                raise LoadError(f"{path} has the {kind}s {names}, its spec says {promised}")

    def _promised(self) -> tuple[list[str], list[str]]:
        """The names of the graph's inputs and outputs."""
        inputs, states, outputs, next_states = self._sides()
        return [t.name for t in (*inputs, *states)], [t.name for t in (*outputs, *next_states)]

    def _room(self, size: int, dtype: str) -> Array:
        return super()._room(size, dtype) if self._staging is None else self._staging.stream.array(size, dtype)

    def _bind(self, sides: Sides, arrays: Sequence[Sequence[Array]]) -> Any:
        inputs, outputs = self._buffers_of(sides, arrays)
        if self._staging is None:
            return Binding(self._ort_session, inputs, outputs)
        return StagedBinding(self._ort_session, self._staging, inputs, outputs)

    @staticmethod
    def _buffers_of(sides: Sides, arrays: Sequence[Sequence[Array]]) -> tuple[dict[str, Buffer], dict[str, Buffer]]:
        """By name, inputs and outputs."""
        named = [[(t.name, host(a)) for t, a in zip(*side, strict=True)] for side in zip(sides, arrays, strict=True)]
        return dict(named[0] + named[1]), dict(named[2] + named[3])

    def run(self, plan: Plan) -> None:
        plan.bound.run()
