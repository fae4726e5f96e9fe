"""What a machine lacks for ONNX Runtime to run on its GPU, asked of the driver and the libraries themselves.

ONNX Runtime asked for CUDA falls back to the CPU without an error, and what it logs names the first missing library at most.
"""

import ctypes
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from statecell_server.runtimes import driver

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
    try:
        driver.call("cuInit", 0)
    except OSError as error:
        return [f"the NVIDIA driver ({error}; a container needs --gpus all)"]
    except driver.CudaError as error:
        return [f"a GPU that the driver can use ({error})"]
    lacks, have, count = [], driver.cuda_version(), driver.devices()
    if have[0] < int(cuda_version.split(".", maxsplit=1)[0]):
        lacks.append(f"a driver for CUDA {cuda_version} (the one here is for CUDA {have[0]}.{have[1]} at most)")
    if index >= count:
        lacks.append(f"device cuda:{index} (the driver has {count}, counted from 0)")
    return lacks


def _libraries(cuda_version: str) -> list[str]:
    """Those that are already loaded count, wherever they came from."""
    lacks = []
    for pattern in LIBRARIES:
        library = pattern.format(major=cuda_version.split(".", maxsplit=1)[0])
        try:
            _open(library)
        except OSError as error:
            absent = str(error).startswith(f"{library}: cannot open shared object file")
            lacks.append(library if absent else f"{library} as it should be ({error})")
    if lacks:
        lacks[-1] += " (of CUDA and cuDNN: pip install 'statecell-server[gpu]' brings both)"
    return lacks


def _open(library: str) -> ctypes.CDLL:
    """From where the system looks, else from NVIDIA's Python packages. Raises OSError."""
    try:
        return ctypes.CDLL(library)
    except OSError:
        # ONNX Runtime looks for them in the folder that it is installed in itself; they may be in another one on Python's path.
        for folder in _folders():
            if (folder / library).exists():
                return ctypes.CDLL(str(folder / library))
        raise


def _folders() -> Iterator[Path]:
    """Where NVIDIA's Python packages have their libraries: nvidia/cu13/lib, nvidia/cudnn/lib, ..."""
    found = find_spec("nvidia")
    for root in (found and found.submodule_search_locations) or ():
        yield from sorted(Path(root).glob("*/lib"))


def described(index: int) -> str:
    """The card, the driver and cuDNN, which together decide a result's last bits. After `missing` has found nothing missing."""
    cudnn = ctypes.CDLL("libcudnn.so.9")
    cudnn.cudnnGetVersion.restype = ctypes.c_size_t
    version = int(cudnn.cudnnGetVersion())
    release, newest = driver.release(), driver.cuda_version()
    said = f"{release} (CUDA {newest[0]}.{newest[1]})" if release else f"for CUDA {newest[0]}.{newest[1]}"
    return f"{driver.card(index)}, driver {said}, cuDNN {version // 10000}.{version // 100 % 100}.{version % 100}"
