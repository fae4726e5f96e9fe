"""The kernel that moves rows: its source does on the CPU what the host's way does."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statecell_server.runtimes
from statecell_server.device import Device
from statecell_server.runtimes.device_memory import DeviceMemory
from statecell_server.runtimes.stream import PLACE, THREADS, HostStream

FOLDER = Path(statecell_server.runtimes.__file__).parent

ON_THE_HOST = """
#define __device__
#define __global__
struct uint4 { unsigned x, y, z, w; };
struct Index { unsigned x, y; };
static Index blockIdx, blockDim, threadIdx;
#include "rows.cu"
extern "C" void launch(int width, unsigned blocks, unsigned places, unsigned threads, const Place *at, const long long *slots,
                       long long batch, int into_arena) {
  blockDim.x = threads;
  for (blockIdx.y = 0; blockIdx.y < places; ++blockIdx.y)
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
      for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
        (width == 16 ? move_16 : width == 4 ? move_4 : move_1)(at, slots, batch, into_arena);
}
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler")
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "host.cc").write_text(ON_THE_HOST)
    flags = ["-O1", "-w", "-std=c++17", "-shared", "-fPIC", f"-I{FOLDER}", "-o", "kernel.so"]
    subprocess.run(["c++", *flags, "host.cc"], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "kernel.so"))


@pytest.mark.parametrize(("width", "sizes"), [(16, [(2, 32), (1, 48)]), (4, [(3, 20), (1, 8)]), (1, [(1, 6), (2, 7), (1, 1)])])
@pytest.mark.parametrize("into_arena", [False, True])
def test_the_kernel_moves_the_rows_that_it_is_told_to_and_no_others(
    kernel: ctypes.CDLL, width: int, sizes: list[tuple[int, int]], into_arena: bool
) -> None:
    rng, slots, batch = np.random.default_rng(width), 41, 9
    chosen = rng.permutation(slots)[:batch].astype(np.int64)
    chosen[[2, 8]] = -1
    moved: list[list[Any]] = []
    for how in ("host", "kernel"):
        rng = np.random.default_rng(5)
        arenas = [rng.integers(0, 256, (slots, lead, size), np.uint8) for lead, size in sizes]
        runs = [rng.integers(0, 256, (lead, batch, size), np.uint8) for lead, size in sizes]
        places = np.zeros(len(sizes), PLACE)
        for place, arena, run, (lead, size) in zip(places, arenas, runs, sizes, strict=True):
            place["arena"], place["run"], place["lead"], place["bytes"] = arena.ctypes.data, run.ctypes.data, lead, size
        if how == "host":
            table = DeviceMemory(Device(), places.nbytes)
            HostStream(Device()).move(table, places, chosen.ctypes.data, batch, into_arena=into_arena)
        else:
            blocks = -(-max(lead * size for lead, size in sizes) * batch // (width * THREADS))
            numbers = ctypes.c_void_p(chosen.ctypes.data), ctypes.c_longlong(batch), ctypes.c_int(into_arena)
            kernel.launch(width, blocks, len(sizes), THREADS, ctypes.c_void_p(places.ctypes.data), *numbers)
        moved.append([*arenas, *runs])
    assert all(np.array_equal(a, b) for a, b in zip(*moved, strict=True))
    for i, (arena, run) in enumerate(zip(moved[0][: len(sizes)], moved[0][len(sizes) :], strict=True)):
        for row, slot in enumerate(chosen):
            same = slot >= 0 and np.array_equal(arena[slot], run[:, row])
            assert same == (slot >= 0), f"state {i}, row {row}"
