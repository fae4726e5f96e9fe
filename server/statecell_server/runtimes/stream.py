"""Stream: what a device does one after the other, and the memory that it does it with."""

import ctypes
import weakref
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from statecell.tensor import Array

from statecell_server.device import Device
from statecell_server.runtimes import driver
from statecell_server.runtimes.device_memory import DeviceMemory

PLACE = np.dtype([("arena", "u8"), ("run", "u8"), ("lead", "i8"), ("bytes", "i8")])
"""Of one state, for `move`: rows.cu has the same structure."""
THREADS = 256
ROWS = Path(__file__).with_name("rows.ptx")
Size = tuple[int, int, int]
"""Blocks of a grid, or threads of a block."""


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
        grid = (-(-most // THREADS), len(known), 1)
        self.launch(ROWS, f"move_{word}", grid, (THREADS, 1, 1), arguments)

    def launch(self, source: Path, kernel: str, grid: Size, block: Size, arguments: Sequence[Any]) -> None:
        """A kernel of the PTX file `source`; `arguments` are of ctypes. Raises CudaError."""
        function = _function(self.device.index, source, kernel)
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
        driver.call("cuLaunchKernel", function, *grid, *block, 0, self._handle, pointers, None)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """A call that begins all at once what `work` begins one after the other: a CUDA graph. Raises CudaError.

        All that `work` uses must be there for as long as the call is, and its kernels have been launched before.
        """
        graph, recording = ctypes.c_void_p(), ctypes.c_void_p()
        driver.call("cuStreamBeginCapture_v2", self._handle, 1)  # 1: what other threads do meanwhile is not forbidden
        try:
            work()
        finally:
            driver.call("cuStreamEndCapture", self._handle, ctypes.byref(graph))
        try:
            driver.call("cuGraphInstantiateWithFlags", ctypes.byref(recording), graph, ctypes.c_ulonglong(0))
        finally:
            driver.call("cuGraphDestroy", graph)
        begin = partial(driver.call, "cuGraphLaunch", recording, self._handle)
        weakref.finalize(begin, _forget, self.device.index, recording)
        return begin

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

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        return work

    def wait(self) -> None:
        pass


def stream(device: Device) -> Stream:
    """One of its own. Raises CudaError."""
    return HostStream(device) if device.kind == "cpu" else Stream(device)


def _at(address: int, size: int) -> Array:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


@cache
def _module(index: int, source: Path) -> ctypes.c_void_p:
    """A file of PTX, which the driver compiles for its own device."""
    module = ctypes.c_void_p()
    driver.enter(index)
    driver.call("cuModuleLoadData", ctypes.byref(module), source.read_bytes() + b"\0")
    return module


@cache
def _function(index: int, source: Path, kernel: str) -> ctypes.c_void_p:
    function = ctypes.c_void_p()
    driver.call("cuModuleGetFunction", ctypes.byref(function), _module(index, source), kernel.encode())
    return function


def _forget(index: int, recording: ctypes.c_void_p) -> None:
    """A device that is broken says so elsewhere."""
    try:
        driver.enter(index)
        driver.call("cuGraphExecDestroy", recording)
    except driver.CudaError:
        pass


def _unlock(index: int, pointer: ctypes.c_void_p) -> None:
    """A device that is broken says so elsewhere."""
    try:
        driver.enter(index)
        driver.call("cuMemFreeHost", pointer)
    except driver.CudaError:
        pass
