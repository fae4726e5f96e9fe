"""What a machine lacks for ONNX Runtime to run on its GPU, asked of the driver and the libraries themselves.

ONNX Runtime asked for CUDA falls back to the CPU without an error, and what it logs names the first missing library at most.
"""

import ctypes
from functools import cache

LIBRARIES = ("libcudart.so.{major}", "libcublasLt.so.{major}", "libcublas.so.{major}", "libcurand.so.10", "libcudnn.so.9")


@cache
def missing(index: int, cuda_version: str) -> tuple[str, ...]:
    """What stands between this process and device `index`; empty where nothing does.

    `cuda_version` is the one that ONNX Runtime was built for, such as "13.0"; "" is that of its CPU build.
    """
    if not cuda_version:
        return (
            "the onnxruntime that is installed was built for the CPU: pip uninstall onnxruntime, "
            "then pip install 'statecell-server[gpu]' (the two must never be in one environment)",
        )
    return (*_driver(index, cuda_version), *_libraries(cuda_version))


def _driver(index: int, cuda_version: str) -> list[str]:
    """The driver's own functions: https://docs.nvidia.com/cuda/cuda-driver-api/"""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return [f"the NVIDIA driver ({error}; a container needs --gpus all)"]
    if code := driver.cuInit(0):
        return [f"a GPU that the driver can use (cuInit: {_name(driver, code)})"]
    version, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    driver.cuDeviceGetCount(ctypes.byref(count))
    lacks = []
    have = (version.value // 1000, version.value % 1000 // 10)
    if have[0] < int(cuda_version.split(".", maxsplit=1)[0]):
        lacks.append(f"a driver for CUDA {cuda_version} (the one here is for CUDA {have[0]}.{have[1]} at most)")
    if index >= count.value:
        lacks.append(f"device cuda:{index} (the driver has {count.value}, counted from 0)")
    return lacks


def _name(driver: ctypes.CDLL, code: int) -> str:
    name = ctypes.c_char_p()
    driver.cuGetErrorName(code, ctypes.byref(name))
    return f"{(name.value or b'unknown').decode()}, {code}"


def _libraries(cuda_version: str) -> list[str]:
    """Those that are already loaded count, wherever they came from."""
    lacks = []
    for pattern in LIBRARIES:
        library = pattern.format(major=cuda_version.split(".", maxsplit=1)[0])
        try:
            ctypes.CDLL(library)
        except OSError as error:
            absent = str(error).startswith(f"{library}: cannot open shared object file")
            lacks.append(library if absent else f"{library} as it should be ({error})")
    if lacks:
        lacks[-1] += " (of CUDA and cuDNN: pip install 'statecell-server[gpu]' brings both)"
    return lacks
