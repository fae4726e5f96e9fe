"""Staging: the way of a run's arrays between the host and a device."""

import ctypes
from collections.abc import Mapping
from math import prod
from typing import Any, Protocol

import numpy as np

from statecell_server.runtimes.device_memory import DeviceMemory
from statecell_server.runtimes.ort_session import Buffer, blamed
from statecell_server.runtimes.runtime import DeviceError
from statecell_server.runtimes.stream import Stream


class Rows(Protocol):
    """The states of a run: in buffers on the device, which it fills from an arena and empties into it."""

    @property
    def inputs(self) -> Mapping[str, Buffer]:
        """By name."""

    @property
    def outputs(self) -> Mapping[str, Buffer]:
        """By name."""

    @property
    def slots(self) -> Mapping[str, Buffer]:
        """Arrays of the host, whose copies on the device say which rows of the arena."""

    def gather(self) -> None:
        """Begins to fill the inputs."""

    def scatter(self) -> None:
        """Begins to empty the outputs."""


class Staging:
    """A buffer on the device for each array of a runtime, which all of its runs share, and the stream that they follow.

    ONNX Runtime would take memory of the device for what is bound on the host, copy it from pages that may move, and wait for
    the whole device, in each run. Here a run is a few copies, the model, a few copies, and one wait for this stream.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._mirrors: dict[str, DeviceMemory] = {}

    def mirror(self, name: str, size: int) -> DeviceMemory:
        """At least `size` bytes on the device, for all runs that have an array of this name.

        Raises StateBudgetExceeded where there is no room, DeviceLost.
        """
        memory = self._mirrors.get(name)
        if memory is None or memory.size < size:
            try:
                memory = self._mirrors[name] = DeviceMemory(self.stream.device, size)
            except DeviceError as error:
                raise blamed(error, self.stream.device) from error
        return memory


def size(buffer: Buffer) -> int:
    """Bytes."""
    return prod(buffer.shape) * int(np.dtype(buffer.dtype).itemsize)


class StagedBinding:
    """A run whose inputs and outputs have their buffers on the device, bound once. For one thread at a time."""

    def __init__(
        self,
        ort_session: Any,
        staging: Staging,
        inputs: Mapping[str, Buffer],
        outputs: Mapping[str, Buffer],
        rows: Rows | None = None,
    ) -> None:
        """`inputs` and `outputs` are arrays of the host; the session runs on the staging's stream. Raises as mirror does."""
        self._ort_session, self._staging, self._rows = ort_session, staging, rows
        self._binding = ort_session.io_binding()
        self._held: list[DeviceMemory] = []
        self._to_device = [(self._mirror(name, b).address, b.address, size(b)) for name, b in inputs.items()]
        self._to_host = [(b.address, self._mirror(name, b).address, size(b)) for name, b in outputs.items()]
        for (name, buffer), copy in zip(inputs.items(), self._to_device, strict=True):
            self._binding.bind_input(name, *self._on_device(buffer, copy[0]))
        for (name, buffer), copy in zip(outputs.items(), self._to_host, strict=True):
            self._binding.bind_output(name, *self._on_device(buffer, copy[1]))
        if rows is not None:
            self._to_device += [(self._mirror(name, b).address, b.address, size(b)) for name, b in rows.slots.items()]
            for name, buffer in rows.inputs.items():
                self._binding.bind_input(name, *buffer)
            for name, buffer in rows.outputs.items():
                self._binding.bind_output(name, *buffer)

    def _mirror(self, name: str, buffer: Buffer) -> DeviceMemory:
        memory = self._staging.mirror(name, size(buffer))
        self._held.append(memory)  # it may be replaced by a larger one for other runs
        return memory

    def _on_device(self, buffer: Buffer, address: int) -> Buffer:
        device = self._staging.stream.device
        return Buffer(device.kind, device.index, buffer.dtype, buffer.shape, address)

    def run(self) -> None:
        """From the arrays as they are now. Raises RunError, StateBudgetExceeded, DeviceLost."""
        stream, rows = self._staging.stream, self._rows
        try:
            stream.enter()
            for copy in self._to_device:
                stream.copy(*copy)
            if rows is not None:
                rows.gather()
            self._run()
            if rows is not None:
                rows.scatter()
            for copy in self._to_host:
                stream.copy(*copy)
            stream.wait()
        except Exception as error:
            raise blamed(error, stream.device) from error

    def _run(self) -> None:
        try:
            self._ort_session.run_with_iobinding(self._binding)
        except Exception:
            # Never to be closed: ONNX Runtime would then give back what the run has left in a callback of CUDA's, where memory
            # cannot be freed, and end the process.
            if self._staging.stream.address:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._ort_session))
            raise
