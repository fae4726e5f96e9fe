"""DeviceRuntime: `model.onnx` in ONNX Runtime with its states on the device, so that only inputs and outputs cross the bus."""

from collections.abc import Sequence
from typing import Any

from statecell.tensor import Array

from statecell_server.arena.arena import StateArena
from statecell_server.runtimes.device_arena import SLOTS, DeviceArena
from statecell_server.runtimes.onnx import OnnxRuntime
from statecell_server.runtimes.runtime import Sides
from statecell_server.runtimes.staging import StagedBinding


class DeviceRuntime(OnnxRuntime):
    """Its plans have, in place of states, which slots of the arena to read and to write; and no next states."""

    staged = True
    _arena: DeviceArena

    def _sides(self) -> Sides:
        return (self.spec.inputs, SLOTS, self.spec.outputs, ()) if self.spec.states else super()._sides()

    def arena(self, memory: int, rows: int) -> StateArena:
        if not self.spec.states:
            return super().arena(memory, rows)
        assert self._staging is not None
        self._plans.clear()  # they are bound to the arena before
        self._arena = DeviceArena(self.spec.states, memory, rows, self._staging, self.run, self._plans.clear)
        return self._arena

    def _bind(self, sides: Sides, arrays: Sequence[Sequence[Array]]) -> Any:
        if not self.spec.states:
            return super()._bind(sides, arrays)
        assert self._staging is not None
        inputs, _ = self._buffers_of((sides[0], (), (), ()), (arrays[0], (), (), ()))
        _, outputs = self._buffers_of(((), (), sides[2], ()), ((), (), arrays[2], ()))
        rows = self._arena.rows(len(arrays[1][0]), arrays[1])
        return StagedBinding(self._ort_session, self._staging, inputs, outputs, rows)
