"""RecurrentRun: the launches of one run, for one (seq_len, batch)."""

from collections.abc import Callable, Sequence

from statecell.spec import StateSpec
from statecell.tensor import Array

from statecell_server.runtimes.device_memory import DeviceMemory
from statecell_server.runtimes.ort_session import blamed
from statecell_server.runtimes.recurrent_kernel import Launcher
from statecell_server.runtimes.recurrent_step import Step, packed, pieces, units
from statecell_server.runtimes.stack import Layer, Row, Stack
from statecell_server.runtimes.staging import Staging
from statecell_server.runtimes.stream import Stream

FLOAT = 4
"""Bytes of a float32."""
DIRECT = 32 << 10
"""Bytes of y that kernels write to the host faster than to the device and from there in one copy."""


class Weights:
    """A layer's, on the device."""

    def __init__(self, stream: Stream, layer: Layer) -> None:
        """Raises DeviceError, DeviceLost, CudaError."""
        weights, bias = packed(layer)
        self.weights, self.bias = (DeviceMemory(stream.device, array.nbytes) for array in (weights, bias))
        self.size = weights.nbytes + bias.nbytes
        stream.enter()
        stream.copy(self.weights.address, weights.ctypes.data, weights.nbytes)
        stream.copy(self.bias.address, bias.ctypes.data, bias.nbytes)
        stream.wait()


class RecurrentRun:
    """x and slots to the device, a kernel a layer and time step, y back. For one thread at a time.

    From the second time on all of it is one call. The first layer reads x, the others the y of the layer before; the first time
    step reads states from the arena and the last one writes them there, and those between pass them on in buffers.
    """

    def __init__(
        self,
        stack: Stack,
        weights: Sequence[Weights],
        launch: Launcher,
        staging: Staging,
        states: Sequence[StateSpec],
        memories: Sequence[DeviceMemory],
        x: Array,
        slots: Sequence[Array],
        y: Array,
    ) -> None:
        """`slots`: int64 [batch], to read from and to write to, -1: nowhere. Raises as Staging.mirror does."""
        self._launch, self.stream = launch, staging.stream
        self._again: Callable[[], None] | None = None
        self._held = [*memories]
        self._stack, self._states, self._memories = stack, states, memories
        steps, batch = x.shape[:2][::-1] if stack.batch_first else x.shape[:2]
        inputs = (("x", x), ("from", slots[0]), ("to", slots[1]))
        self._to_device = [(self._mirror(staging, name, a.nbytes), a.ctypes.data, a.nbytes) for name, a in inputs]
        source, sources, targets = (copy[0] for copy in self._to_device)
        source_strides = self._strides(x)
        # A kernel may write to the host's memory by itself; but of several time steps each reads what the one before wrote.
        direct = steps == 1 and y.nbytes <= DIRECT
        whole = y.ctypes.data if direct else self._mirror(staging, "y", y.nbytes)
        self._to_host = [] if direct else [(y.ctypes.data, whole, y.nbytes)]
        self._steps: list[tuple[str, Step]] = []
        for i, (layer, own) in enumerate(zip(stack.layers, weights, strict=True)):
            self._held += [own.weights, own.bias]
            if i + 1 < len(stack.layers):
                target = self._mirror(staging, f"y of layer {i}", steps * batch * layer.hidden * FLOAT)
                target_strides = (batch * layer.hidden, layer.hidden)
            else:
                target, target_strides = whole, self._strides(y)
            between = self._mirror(staging, f"c of layer {i}", batch * layer.hidden * FLOAT) if layer.c and steps > 1 else 0
            for t in range(steps):
                step = Step(weights=own.weights.address, bias=own.bias.address, batch=batch, relu=layer.relu)
                step.inputs, step.hidden, step.units = layer.w.shape[1], layer.hidden, units(layer)
                step.x_pieces, step.pieces = pieces(layer)
                step.x, step.x_stride = source + t * source_strides[0] * FLOAT, source_strides[1]
                step.y, step.y_stride = target + t * target_strides[0] * FLOAT, target_strides[1]
                step.c, step.c_stride, step.c_n, step.c_n_stride = between, layer.hidden, between, layer.hidden
                if t == 0:
                    step.sources = sources
                    step.h, step.h_stride = self._arena(layer.h)
                    if layer.c:
                        step.c, step.c_stride = self._arena(layer.c)
                else:
                    step.h, step.h_stride = step.y - target_strides[0] * FLOAT, target_strides[1]
                if t == steps - 1:
                    step.targets = targets
                    step.h_n, step.h_n_stride = self._arena(layer.h)
                    if layer.c:
                        step.c_n, step.c_n_stride = self._arena(layer.c)
                self._steps.append((layer.cell, step))
            source, source_strides = target, target_strides

    def _mirror(self, staging: Staging, name: str, size: int) -> int:
        memory = staging.mirror(name, size)
        self._held.append(memory)  # it may be replaced by a larger one for other runs
        return memory.address

    def _strides(self, array: Array) -> tuple[int, int]:
        """Numbers from one time step to the next, and from one row to the next."""
        strides = [n // FLOAT for n in array.strides[:2]]
        return (strides[1], strides[0]) if self._stack.batch_first else (strides[0], strides[1])

    def _arena(self, row: Row) -> tuple[int, int]:
        """Where this part of slot 0 is, and the numbers from one slot to the next."""
        layers, _, hidden = (int(n) if n != "batch" else 0 for n in self._states[row.state].shape)
        return self._memories[row.state].address + row.index * hidden * FLOAT, layers * hidden

    def run(self) -> None:
        """From the arrays as they are now. Raises StateBudgetExceeded, DeviceLost."""
        try:
            self.stream.enter()
            if self._again is not None:
                self._again()
                self.stream.wait()
            else:
                self._begin()
                self.stream.wait()
                self._again = self.stream.record(self._begin)
        except Exception as error:
            raise blamed(error, self.stream.device) from error

    def _begin(self) -> None:
        for copy in self._to_device:
            self.stream.copy(*copy)
        self.begin_kernels()
        for copy in self._to_host:
            self.stream.copy(*copy)

    def begin_kernels(self) -> None:
        """Of all layers and time steps, without the copies before and after them. Raises CudaError."""
        for cell, step in self._steps:
            self._launch(cell, step)
