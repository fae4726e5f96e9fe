"""The PTX of the server's kernels, compiled anew: python -m tests.server.runtimes.ptx writes what is checked in."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import statecell_server.runtimes

FOLDER = Path(statecell_server.runtimes.__file__).parent
SOURCES = {FOLDER / "rows.cu": "75", FOLDER / "recurrent.cu": "80"}
"""And the compute capability that each needs, times ten: recurrent.cu copies to shared memory while it computes."""

COMPILING = """
import ctypes, sys
nvrtc, program, size = ctypes.CDLL(sys.argv[1]), ctypes.c_void_p(), ctypes.c_size_t()
source = open(sys.argv[2], "rb").read()
assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernel.cu", 0, None, None) == 0
# No product is fused with a sum unless the source says so: which ones are would be each kernel's own affair.
options = (ctypes.c_char_p * 3)(b"--gpu-architecture=compute_" + sys.argv[4].encode(), b"--std=c++17", b"--fmad=false")
assert nvrtc.nvrtcCompileProgram(program, len(options), options) == 0
assert nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size)) == 0
ptx = ctypes.create_string_buffer(size.value)
assert nvrtc.nvrtcGetPTX(program, ptx) == 0
open(sys.argv[3], "wb").write(ptx.value)
"""
"""In a process of its own: the library changes the locale of the one that loads it."""


def nvrtc() -> list[Path]:
    """NVIDIA's compiler, where it is installed."""
    found = find_spec("nvidia")
    roots = (found and found.submodule_search_locations) or ()
    return [path for root in roots for path in Path(root).glob("cuda_nvrtc/lib/libnvrtc.so.12")]


def compile_ptx(source: Path, target: Path) -> None:
    """Raises CalledProcessError."""
    subprocess.run([sys.executable, "-c", COMPILING, str(nvrtc()[0]), str(source), str(target), SOURCES[source]], check=True)


if __name__ == "__main__":
    for path in SOURCES:
        compile_ptx(path, path.with_suffix(".ptx"))
