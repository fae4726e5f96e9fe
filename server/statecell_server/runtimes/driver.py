"""The NVIDIA driver, by its own functions: https://docs.nvidia.com/cuda/cuda-driver-api/

Its library has one name for all versions of CUDA, and shares each device's primary context with ONNX Runtime.
"""

import ctypes
from functools import cache

OUT_OF_MEMORY = 2


class CudaError(Exception):
    """A call of the driver failed."""

    def __init__(self, function: str, code: int) -> None:
        self.code = code
        super().__init__(f"{function}: {_name(code)}")


@cache
def library() -> ctypes.CDLL:
    """Raises OSError where there is no driver."""
    return ctypes.CDLL("libcuda.so.1")


def call(function: str, *arguments: object) -> None:
    """Raises CudaError."""
    if code := getattr(library(), function)(*arguments):
        raise CudaError(function, code)


def _name(code: int) -> str:
    name = ctypes.c_char_p()
    library().cuGetErrorName(code, ctypes.byref(name))
    return f"{(name.value or b'unknown').decode()}, {code}"


def devices() -> int:
    """How many GPUs this process can use; 0 without a driver."""
    count = ctypes.c_int()
    try:
        call("cuInit", 0)
        call("cuDeviceGetCount", ctypes.byref(count))
    except (OSError, CudaError):
        return 0
    return count.value


def cuda_version() -> tuple[int, int]:
    """The newest CUDA that the driver can run."""
    version = ctypes.c_int()
    call("cuDriverGetVersion", ctypes.byref(version))
    return version.value // 1000, version.value % 1000 // 10


@cache
def _context(index: int) -> ctypes.c_void_p:
    device, context = ctypes.c_int(), ctypes.c_void_p()
    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), index)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    return context


def enter(index: int) -> None:
    """Makes the device the one that this thread's calls are about. Raises CudaError."""
    call("cuCtxSetCurrent", _context(index))


def fault(index: int) -> str:
    """What broke the device for this process, "cuCtxSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS, 700" say; "" where nothing did.

    Such an error stays: whatever is asked of the device from then on fails with it, in this process and in no other.
    """
    try:
        enter(index)
        call("cuCtxSynchronize")
    except CudaError as error:
        return str(error)
    return ""


def memory(index: int) -> tuple[int, int]:
    """Bytes of the device that are free, and all of them. Raises CudaError."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    enter(index)
    call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


def processors(index: int) -> int:
    """Multiprocessors of the device. Raises CudaError."""
    device, count = ctypes.c_int(), ctypes.c_int()
    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), index)
    call("cuDeviceGetAttribute", ctypes.byref(count), 16, device)  # 16: CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
    return count.value


def card(index: int) -> str:
    """Such as "NVIDIA H200"."""
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), index)
    call("cuDeviceGetName", name, len(name), device)
    return name.value.decode()


def release() -> str:
    """The driver's own number, such as "580.159.04"; "" where the library that knows it is missing."""
    text = ctypes.create_string_buffer(80)
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return ""
    known = nvml.nvmlInit_v2() == 0 and nvml.nvmlSystemGetDriverVersion(text, len(text)) == 0
    return text.value.decode() if known else ""
