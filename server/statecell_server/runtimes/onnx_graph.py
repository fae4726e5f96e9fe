"""GraphRuntime: `model.onnx` in ONNX Runtime with its states in the graph, so that only inputs and outputs cross the bus."""

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from statecell.tensor import Array

from statecell_server.arena.arena import StateArena
from statecell_server.runtimes.graph_arena import GraphArena
from statecell_server.runtimes.onnx import OnnxRuntime
from statecell_server.runtimes.ort_session import open_session
from statecell_server.runtimes.runtime import Sides
from statecell_server.runtimes.state_graph import arena, indices, mover, next_arena, with_arena


class GraphRuntime(OnnxRuntime):
    """Its plans have, in place of states, which rows of the arenas to read and to write; and no next states."""

    _arena: GraphArena

    def _graph(self, content: bytes, path: Path) -> bytes:
        return with_arena(content, path)

    def _sides(self) -> Sides:
        return self.spec.inputs, list(chain.from_iterable(indices(self.spec.states))), self.spec.outputs, ()

    def _promised(self) -> tuple[list[str], list[str]]:
        inputs, outputs = super()._promised()
        states = self.spec.states
        return inputs + [arena(s) for s in states], outputs + [next_arena(s) for s in states]

    def arena(self, memory: int, rows: int) -> StateArena:
        if not self.spec.states:
            return super().arena(memory, rows)
        self._plans.clear()  # they are bound to the arena before
        self._arena = GraphArena(self.spec.states, memory, rows, self._place, self._mover, self.run, self._plans.clear)
        return self._arena

    @cached_property
    def _mover(self) -> Any:
        return open_session(mover(self.spec.states), self._place)

    def _bind(self, sides: Sides, arrays: Sequence[Sequence[Array]]) -> Any:
        inputs, outputs = self._buffers_of(sides, arrays)
        if self.spec.states:
            for state, buffer in zip(self.spec.states, self._arena.buffers(), strict=True):
                inputs[arena(state)] = outputs[next_arena(state)] = buffer
        return self._bound(inputs, outputs, feed=False)
