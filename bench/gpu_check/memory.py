"""Probes of the device's memory: what an arena costs, how it grows, and what happens where there is no room."""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import median

import numpy as np
from statecell.tensor import Array
from statecell_server.arena.arena import StateArena
from statecell_server.device import Device
from statecell_server.runtimes import driver
from statecell_server.runtimes.device_memory import DeviceMemory
from statecell_server.runtimes.onnx_device import DeviceRuntime
from statecell_server.runtimes.runtime import DeviceError

from bench.gpu_check.finding import Finding
from bench.gpu_check.models import arena, loaded, step

MIB, GIB = 1 << 20, 1 << 30
CHUNK = 65536
"""Rows that are set or read at once."""


def in_place(device: Device) -> Finding:
    """A step at a small and at a large arena: a step that copies its arena would take as long as that takes."""
    runtime = loaded(device, "LSTM", 512)
    row = sum(s.fresh().nbytes for s in runtime.spec.states)
    x = np.ones((1, 16, 512), np.float32)
    figures = {}
    for name, size in (("small", MIB), ("large", 2 * GIB if device.kind == "cuda" else 256 * MIB)):
        slots = size // row
        within = arena(runtime, slots)
        here = np.random.default_rng(0).permutation(np.arange(1, slots))[:32].tolist()
        within.write(here, [s.fresh(32) for s in runtime.spec.states])
        times = []
        for _ in range(200):
            began = time.perf_counter()
            step(runtime, within, x, here[:16], here[16:])
            times.append(time.perf_counter() - began)
        figures[name] = median(times[20:])
    ratio = figures["large"] / figures["small"]
    said = f"{figures['small'] * 1e6:.0f} us at 1 MiB, {figures['large'] * 1e6:.0f} us at the large one"
    return Finding(ratio < 1.5, said, figures)


def growth(device: Device) -> Finding:
    """The memory that three doublings take, and leave taken."""
    if device.kind == "cpu":
        return Finding(True, "not tried: the host's memory is everybody's")
    runtime = loaded(device, "LSTM", 1024)
    row = sum(s.fresh().nbytes for s in runtime.spec.states)
    rows = GIB // row
    within = arena(runtime, rows)
    steps = [{"arena": within.capacity * row, "taken": _taken(device)}]
    for _ in range(3):
        within.capacity *= 2
        within.reserve(within.capacity)
        steps.append({"arena": within.capacity * row, "taken": _taken(device)})
    more = [b["taken"] - a["taken"] - (b["arena"] - a["arena"]) for a, b in pairwise(steps)]
    said = f"beyond the arena's own: {', '.join(f'{n / MIB:.0f} MiB' for n in more)}"
    return Finding(all(abs(n) < 64 * MIB for n in more), said, {"steps": steps})


def _taken(device: Device) -> int:
    free, total = driver.memory(device.index)
    return total - free


def large_growth(device: Device) -> Finding:
    """From 4.5 to 9 GiB, which is beyond what 32 bits count: every row is read back, and steps work at both ends."""
    gpu = device.kind == "cuda"
    hidden = 1024
    runtime = loaded(device, "GRU", hidden)
    rows = (9 * GIB if gpu else 9 * MIB) // (4 * hidden)
    within = arena(runtime, rows // 2)
    first = within.capacity
    chunk = CHUNK if gpu else 256
    began = time.perf_counter()
    for slots in _chunks(1, first, chunk):
        within.write(slots, [_pattern(slots, hidden)])
    written = time.perf_counter()
    within.capacity = rows
    within.reserve(rows)
    grown = time.perf_counter()
    wrong = 0
    for slots in _chunks(1, first, chunk):
        wrong += int((within.read(slots)[0].view(np.int32) != _pattern(slots, hidden).view(np.int32)).any(2).sum())
    read = time.perf_counter()
    same = _same_at_both_ends(runtime, within, rows, hidden)
    said = (
        f"{first:,} rows grown in {grown - written:.3f} s, {wrong} of them wrong; "
        f"a step at the last rows {'is' if same else 'is NOT'} one at the first"
    )
    figures = {"rows": first, "wrong": wrong, "write": written - began, "grow": grown - written, "read": read - grown}
    return Finding(not wrong and same, said, figures)


def _same_at_both_ends(runtime: DeviceRuntime, within: StateArena, rows: int, hidden: int) -> bool:
    rng = np.random.default_rng(0)
    x, state = (rng.standard_normal((1, 8, hidden)).astype(np.float32) for _ in range(2))
    found = []
    for first in (1, rows - 16):
        here, there = list(range(first, first + 8)), list(range(first + 8, first + 16))
        within.write(here, [state])
        step(runtime, within, x, here, there)
        found.append(within.read(there)[0])
    return np.array_equal(found[0], found[1])


def _chunks(start: int, stop: int, chunk: int) -> Iterator[range]:
    return (range(first, min(first + chunk, stop)) for first in range(start, stop, chunk))


def _pattern(slots: range, hidden: int) -> Array:
    """Bits that no other row has, [1, rows, hidden]."""
    rows = np.arange(slots.start, slots.stop, dtype=np.int64)[:, None] * hidden + np.arange(hidden)
    return (rows * 2654435761 & 0x3FFFFFFF).astype(np.int32).view(np.float32)[None]


def full(device: Device) -> Finding:
    """The device is filled by others: growing and new sizes are refused as its fault, states stay, and room is used again."""
    if device.kind == "cpu":
        return Finding(True, "not tried: the host's memory is not to be filled")
    runtime = loaded(device, "LSTM", 1024)
    within = arena(runtime, 256)
    slots, others = list(range(1, 9)), list(range(9, 17))
    state = np.random.default_rng(0).standard_normal((1, 8, 1024)).astype(np.float32)
    within.write(slots, [state, state])
    x = np.ones((1, 8, 1024), np.float32)
    before = step(runtime, within, x, slots, others)
    runtime.plan(32, 64)  # its buffers are there, ONNX Runtime's own memory for it is not
    attempts: dict[str, Callable[[], object]] = {
        "growing": lambda: within.reserve(1 << 17),
        "a run": lambda: step(runtime, within, np.ones((32, 64, 1024), np.float32), [0] * 64, list(range(17, 81))),
        "a larger one": lambda: step(runtime, within, np.ones((64, 64, 1024), np.float32), [0] * 64, list(range(17, 81))),
    }
    taken = _fill(device)
    refused = {what: _refusal(attempt) for what, attempt in attempts.items()}
    kept = all(np.array_equal(a, state) for a in within.read(slots))
    taken.clear()
    later = {what: _refusal(attempt) for what, attempt in attempts.items()}
    kept &= all(np.array_equal(a, state) for a in within.read(slots))
    same = np.array_equal(step(runtime, within, x, slots, others), before)
    holds = kept and same and not any(later.values()) and all(r.startswith("StateBudgetExceeded") for r in refused.values())
    said = f"{'; '.join(f'{k}: {v[:40]}' for k, v in refused.items())}; states {'kept' if kept else 'LOST'}"
    return Finding(holds, said, {"refused": refused, "when there is room": later, "kept": kept, "the step again": same})


def _refusal(attempt: Callable[[], object]) -> str:
    """What it raised; "" where it went well."""
    try:
        attempt()
    except Exception as error:  # whatever it is, it is what the probe is to find
        return f"{type(error).__name__}: {error}"
    return ""


def _fill(device: Device) -> list[DeviceMemory]:
    taken: list[DeviceMemory] = []
    for size in (4 * GIB, 256 * MIB, 16 * MIB, 2 * MIB):
        try:
            while True:
                taken.append(DeviceMemory(device, size))
        except DeviceError:
            continue
    return taken
