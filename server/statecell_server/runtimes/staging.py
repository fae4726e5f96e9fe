"""Staging: the way of a run's arrays between the host and a GPU."""

import ctypes
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from statecell.tensor import Array

from statecell_server.device import Device
from statecell_server.runtimes import driver
from statecell_server.runtimes.device_memory import DeviceMemory
from statecell_server.runtimes.ort_session import Buffer, blamed
from statecell_server.runtimes.runtime import DeviceError


class Staging:
    """Page-locked arrays of the host, a buffer on the device for each, and the one stream that copies and runs follow.

    ONNX Runtime would take memory of the device for what is bound on the host, copy it from pages that may move, and wait for
    the whole device, in each run. Here a run is a few copies, the model, a few copies, and one wait for this stream.
    """

    def __init__(self, device: Device) -> None:
        """Raises CudaError."""
        self.device = device
        self._mirrors: dict[str, DeviceMemory] = {}
        stream = ctypes.c_void_p()
        driver.enter(device.index)
        driver.call("cuStreamCreate", ctypes.byref(stream), 1)  # 1: it waits for no other stream
        self.stream = stream

    def array(self, size: int, dtype: str) -> Array:
        """[size] of zeros that the device can copy from and to by itself. Raises CudaError."""
        pointer, count = ctypes.c_void_p(), max(size, 1) * np.dtype(dtype).itemsize
        driver.enter(self.device.index)
        driver.call("cuMemHostAlloc", ctypes.byref(pointer), ctypes.c_size_t(count), 0)
        assert pointer.value is not None
        memory = (ctypes.c_uint8 * count).from_address(pointer.value)
        weakref.finalize(memory, _unlock, self.device.index, pointer)
        array: Array = np.ctypeslib.as_array(memory).view(dtype)[:size]
        array[...] = 0
        return array

    def mirror(self, name: str, size: int) -> DeviceMemory:
        """At least `size` bytes on the device, for all runs that have an array of this name.

        Raises StateBudgetExceeded where there is no room, DeviceLost.
        """
        memory = self._mirrors.get(name)
        if memory is None or memory.size < size:
            try:
                memory = self._mirrors[name] = DeviceMemory(self.device, size)
            except DeviceError as error:
                raise blamed(error, self.device) from error
        return memory


class StagedBinding:
    """A run whose arrays of the host have their buffers on the device, bound once. For one thread at a time."""

    def __init__(
        self, ort_session: ort.InferenceSession, staging: Staging, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]
    ) -> None:
        """The session must run on the staging's stream. Raises as Staging.mirror does."""
        self._ort_session, self._staging = ort_session, staging
        self._binding = ort_session.io_binding()
        self._held: list[DeviceMemory] = []
        self._to_device: list[tuple[Any, ...]] = []
        self._to_host: list[tuple[Any, ...]] = []
        stream = staging.stream
        for name, buffer in inputs.items():
            bound, size = self._on_device(f"in:{name}", buffer)
            self._binding.bind_input(name, *bound)
            if bound is not buffer:
                self._to_device.append((ctypes.c_uint64(bound.address), ctypes.c_void_p(buffer.address), size, stream))
        for name, buffer in outputs.items():
            bound, size = self._on_device(f"out:{name}", buffer)
            self._binding.bind_output(name, *bound)
            if bound is not buffer:
                self._to_host.append((ctypes.c_void_p(buffer.address), ctypes.c_uint64(bound.address), size, stream))

    def _on_device(self, name: str, buffer: Buffer) -> tuple[Buffer, ctypes.c_size_t]:
        size = int(np.prod(buffer.shape, dtype=np.int64)) * np.dtype(buffer.dtype).itemsize
        if buffer.kind != "cpu":
            return buffer, ctypes.c_size_t(size)
        device = self._staging.device
        memory = self._staging.mirror(name, size)
        self._held.append(memory)
        return Buffer(device.kind, device.index, buffer.dtype, buffer.shape, memory.address), ctypes.c_size_t(size)

    def run(self) -> None:
        """From the arrays as they are now. Raises RunError, StateBudgetExceeded, DeviceLost."""
        device, stream = self._staging.device, self._staging.stream
        try:
            driver.enter(device.index)
            for arguments in self._to_device:
                driver.call("cuMemcpyHtoDAsync_v2", *arguments)
            self._ort_session.run_with_iobinding(self._binding)
            for arguments in self._to_host:
                driver.call("cuMemcpyDtoHAsync_v2", *arguments)
            driver.call("cuStreamSynchronize", stream)
        except Exception as error:
            raise blamed(error, device) from error


def _unlock(index: int, pointer: ctypes.c_void_p) -> None:
    """A device that is broken says so elsewhere."""
    try:
        driver.enter(index)
        driver.call("cuMemFreeHost", pointer)
    except driver.CudaError:
        pass
