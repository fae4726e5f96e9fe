"""Stream: what a device does one after the other, and the memory that it does it with."""

import ctypes
import weakref
from functools import cache
from pathlib import Path

import numpy as np
from statecell.tensor import Array

from statecell_server.device import Device
from statecell_server.runtimes import driver
from statecell_server.runtimes.device_memory import DeviceMemory

PLACE = np.dtype([("arena", "u8"), ("run", "u8"), ("lead", "i8"), ("bytes", "i8")])
"""Of one state, for `move`: rows.cu has the same structure."""
THREADS = 256


class Stream:
    """Of a GPU: each call only begins what it says, and `wait` waits for all of it."""

    def __init__(self, device: Device) -> None:
        """Raises CudaError."""
        self.device = device
        handle = ctypes.c_void_p()
        driver.enter(device.index)
        driver.call("cuStreamCreate", ctypes.byref(handle), 1)  # 1: it waits for no other stream
        self._handle = handle

    @property
    def address(self) -> int:
        """As ONNX Runtime wants it; 0: there is none."""
        return self._handle.value or 0

    def array(self, size: int, dtype: str) -> Array:
        """[size] of zeros in the host's memory, in pages that stay where they are, so that the device copies by itself."""
        pointer, count = ctypes.c_void_p(), max(size, 1) * np.dtype(dtype).itemsize
        driver.enter(self.device.index)
        driver.call("cuMemHostAlloc", ctypes.byref(pointer), ctypes.c_size_t(count), 0)
        assert pointer.value is not None
        memory = (ctypes.c_uint8 * count).from_address(pointer.value)
        weakref.finalize(memory, _unlock, self.device.index, pointer)
        array: Array = np.ctypeslib.as_array(memory).view(dtype)[:size]
        array[...] = 0
        return array

    def enter(self) -> None:
        """Before the calls of a run, in the thread that makes them."""
        driver.enter(self.device.index)

    def copy(self, target: int, source: int, size: int) -> None:
        """`size` bytes between addresses of the device and of arrays. Raises CudaError."""
        driver.call("cuMemcpyAsync", ctypes.c_uint64(target), ctypes.c_uint64(source), ctypes.c_size_t(size), self._handle)

    def move(self, places: DeviceMemory, known: Array, slots: int, batch: int, *, into_arena: bool) -> None:
        """Rows of every state between its arena and its buffer of a run: see rows.cu. Raises CudaError.

        `places`: PLACE a state, on the device; `known`: the same on the host. `slots`: address of int64 [batch].
        """
        width = int(np.gcd.reduce([*known["bytes"], 16]))
        word = 16 if width == 16 else 4 if width % 4 == 0 else 1
        most = int((known["lead"] * known["bytes"]).max()) * batch // word
        arguments = [
            ctypes.c_uint64(places.address),
            ctypes.c_uint64(slots),
            ctypes.c_longlong(batch),
            ctypes.c_int(into_arena),
        ]
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
        function = _function(self.device.index, f"move_{word}")
        grid = (-(-most // THREADS), len(known), 1)
        driver.call("cuLaunchKernel", function, *grid, THREADS, 1, 1, 0, self._handle, pointers, None)

    def wait(self) -> None:
        """For everything that was begun. Raises CudaError."""
        driver.call("cuStreamSynchronize", self._handle)


class HostStream(Stream):
    """The same on the CPU, at once: so the whole path of a GPU runs where there is none."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._handle = ctypes.c_void_p()

    def array(self, size: int, dtype: str) -> Array:
        return np.zeros(size, dtype)

    def enter(self) -> None:
        pass

    def copy(self, target: int, source: int, size: int) -> None:
        ctypes.memmove(target, source, size)

    def move(self, places: DeviceMemory, known: Array, slots: int, batch: int, *, into_arena: bool) -> None:  # noqa: ARG002
        wanted = _at(slots, batch * 8).view(np.int64)
        rows = np.flatnonzero(wanted >= 0)
        if not rows.size:
            return
        for place in known:
            lead, size = int(place["lead"]), int(place["bytes"])
            arena = _at(int(place["arena"]), int(wanted.max() + 1) * lead * size).reshape(-1, lead, size)
            run = _at(int(place["run"]), lead * batch * size).reshape(lead, batch, size)
            if into_arena:
                arena[wanted[rows]] = run[:, rows].swapaxes(0, 1)
            else:
                run[:, rows] = arena[wanted[rows]].swapaxes(0, 1)

    def wait(self) -> None:
        pass


def stream(device: Device) -> Stream:
    """One of its own. Raises CudaError."""
    return HostStream(device) if device.kind == "cpu" else Stream(device)


def _at(address: int, size: int) -> Array:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


@cache
def _function(index: int, name: str) -> ctypes.c_void_p:
    """A kernel of rows.cu, which the driver compiles for its own device."""
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    driver.enter(index)
    driver.call("cuModuleLoadData", ctypes.byref(module), Path(__file__).with_name("rows.ptx").read_bytes() + b"\0")
    driver.call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
    return function


def _unlock(index: int, pointer: ctypes.c_void_p) -> None:
    """A device that is broken says so elsewhere."""
    try:
        driver.enter(index)
        driver.call("cuMemFreeHost", pointer)
    except driver.CudaError:
        pass
