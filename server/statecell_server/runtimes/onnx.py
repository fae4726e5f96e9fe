"""OnnxRuntime: `model.onnx` in ONNX Runtime."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from statecell.spec import SPEC_KEY
from statecell.tensor import Array

from statecell_server.arena.plan import Plan
from statecell_server.device import Device
from statecell_server.runtimes.ort_session import Binding, Buffer, host, open_session, strays
from statecell_server.runtimes.runtime import LoadError, RunError, Runtime, Sides, read_spec


class OnnxRuntime(Runtime):
    """On one device, with `threads` threads within a run; a run takes its arrays from the host and leaves its own there."""

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int = 1, device: Device | None = None, memory: int = 0) -> None:
        """`memory`: see open_session. Raises LoadError, and DeviceError where it is the device's."""
        super().__init__()
        self._place = device or Device()
        try:
            content = path.read_bytes()
            self._ort_session = open_session(self._graph(content, path), self._place, threads=threads, memory=memory)
        except LoadError:
            raise
        except Exception as error:
            raise LoadError(f"{path} cannot be loaded: {error}") from error
        self.digest = hashlib.sha256(content).hexdigest()
        self.device = str(self._place)
        self.note = strays(self._ort_session, "CUDAExecutionProvider") if self._place.kind == "cuda" else ""
        self.spec = read_spec(self._ort_session.get_modelmeta().custom_metadata_map.get(SPEC_KEY), path)
        self._check(path)

    def _graph(self, content: bytes, path: Path) -> bytes:  # noqa: ARG002
        """What ONNX Runtime is to run in place of the file's content."""
        return content

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

    def _bind(self, sides: Sides, arrays: Sequence[Sequence[Array]]) -> Any:
        return Binding(self._ort_session, *self._buffers_of(sides, arrays), feed=self._place.kind != "cpu")

    @staticmethod
    def _buffers_of(sides: Sides, arrays: Sequence[Sequence[Array]]) -> tuple[dict[str, Buffer], dict[str, Buffer]]:
        """By name, inputs and outputs."""
        named = [[(t.name, host(a)) for t, a in zip(*side, strict=True)] for side in zip(sides, arrays, strict=True)]
        return dict(named[0] + named[1]), dict(named[2] + named[3])

    def run(self, plan: Plan) -> None:
        try:
            plan.bound.run()
        except Exception as error:
            raise RunError(str(error)) from error
