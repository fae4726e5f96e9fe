"""DeviceMemory: a piece of a device's memory, asked of the device itself and given back to it."""

import ctypes
import weakref

import numpy as np

from statecell_server.device import Device
from statecell_server.runtimes import driver
from statecell_server.runtimes.runtime import DeviceError, DeviceLost


class DeviceMemory:
    """`size` bytes of arbitrary content at `address`, for as long as somebody holds it.

    No pool of ONNX Runtime's stands between: such a pool keeps what it once took, so that an arena which has grown would go on
    costing what it cost while it grew.
    """

    def __init__(self, device: Device, size: int) -> None:
        """Raises DeviceError where there is no room, DeviceLost."""
        self.device, self.size = device, size
        try:
            self.address = self._take()
        except MemoryError as error:
            raise DeviceError(f"{device} has no room for {size} bytes: {error}") from error
        except driver.CudaError as error:
            if error.code != driver.OUT_OF_MEMORY:
                raise DeviceLost(f"{device}: {error}") from error
            raise DeviceError(f"{device} has no room for {size} bytes: {error}") from error

    def _take(self) -> int:
        if self.device.kind == "cpu":
            self._array = np.empty(self.size, np.uint8)
            return self._array.ctypes.data
        pointer = ctypes.c_uint64()
        driver.enter(self.device.index)
        driver.call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(self.size, 1)))
        weakref.finalize(self, _give_back, self.device.index, pointer)
        return pointer.value

    def begin_with(self, other: "DeviceMemory") -> None:
        """Copies all of the other, which is on the same device and no larger, to where this one begins. Raises DeviceLost."""
        assert other.device == self.device
        assert other.size <= self.size
        if self.device.kind == "cpu":
            self._array[: other.size] = other._array
            return
        try:
            driver.enter(self.device.index)
            size = ctypes.c_size_t(other.size)
            driver.call("cuMemcpyDtoD_v2", ctypes.c_uint64(self.address), ctypes.c_uint64(other.address), size)
            driver.call("cuStreamSynchronize", None)  # a copy within a device is only begun by the call
        except driver.CudaError as error:
            raise DeviceLost(f"{self.device}: {error}") from error


def _give_back(index: int, pointer: ctypes.c_uint64) -> None:
    """Waits for what the device still does. A device that is broken has nothing to give back, and says so elsewhere."""
    try:
        driver.enter(index)
        driver.call("cuMemFree_v2", pointer)
    except driver.CudaError:
        pass
