"""OnnxRuntime: `model.onnx` in ONNX Runtime."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from statecell.spec import SPEC_KEY, TensorSpec
from statecell.tensor import Array

from statecell_server.arena.plan import Plan
from statecell_server.device import Device
from statecell_server.runtimes import artifact, cuda
from statecell_server.runtimes.ort_session import Binding, Buffer, host, open_session, require, strays, unlike
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
            content = artifact.read(path)
            self._staging = Staging(stream(self._place)) if self.staged or self._place.kind == "cuda" else None
            self._ort_session = self._open(content, threads, memory)
        except LoadError:
            raise
        except Exception as error:
            raise LoadError(f"{path} cannot be loaded: {error}") from error
        self.digest = hashlib.sha256(content).hexdigest()
        self.device = str(self._place)
        if self._place.kind == "cuda":
            self.note = "; ".join(filter(None, (cuda.described(self._place.index), self._way())))
        self.spec = read_spec(self._ort_session.get_modelmeta().custom_metadata_map.get(SPEC_KEY), path)
        self._check(path)

    def _open(self, content: bytes, threads: int, memory: int) -> Any:
        """ONNX Runtime's session of the model, on the device that is to run it."""
        address = self._staging.stream.address if self._staging is not None else 0
        return open_session(content, self._place, threads=threads, memory=memory, stream=address)

    def _way(self) -> str:
        """What to know of how a GPU runs the model."""
        return strays(self._ort_session, "CUDAExecutionProvider")

    def _check(self, path: Path) -> None:
        """The graph must have what the spec promises; what it lacks would fail at the first call otherwise."""
        inputs, outputs = self._promised()
        for kind, promised, nodes in (
            ("input", inputs, self._ort_session.get_inputs()),
            ("output", outputs, self._ort_session.get_outputs()),
        ):
            have, want = {node.name: node for node in nodes}, {tensor.name: tensor for tensor in promised}
            if want.keys() - have.keys() or (kind == "input" and have.keys() - want.keys()):
                raise LoadError(f"{path} has the {kind}s {list(have)}, its spec says {list(want)}")
            for name, tensor in want.items():
                if difference := unlike(tensor, have[name].type, have[name].shape):
                    raise LoadError(f"{path} has the {kind} {name!r} {difference}")

    def _promised(self) -> tuple[list[TensorSpec], list[TensorSpec]]:
        """The graph's inputs and outputs."""
        states = self.spec.states
        next_states = [TensorSpec(s.output, s.dtype, s.shape) for s in states]
        return [*self.spec.inputs, *(s.tensor for s in states)], [*self.spec.outputs, *next_states]

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
