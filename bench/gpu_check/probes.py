"""The probes by name: python -m bench.gpu_check.probes NAME DEVICE prints what one saw, as JSON."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict

import onnxruntime as ort
from statecell_server.device import Device
from statecell_server.runtimes import cuda, driver, trial
from statecell_server.runtimes.onnx import OnnxRuntime
from statecell_server.runtimes.ort_session import require

from bench.gpu_check import exactness, faults, memory
from bench.gpu_check.finding import Finding
from bench.gpu_check.kernel import kernel
from bench.gpu_check.models import exported, loaded


def libraries(device: Device) -> Finding:
    """What the figures belong to. Raises DeviceError, which names everything that is missing."""
    if device.kind == "cpu":
        return Finding(True, f"onnxruntime {ort.__version__} on the CPU", {})
    require(device)
    free, total = driver.memory(device.index)
    said = f"{cuda.described(device.index)}, onnxruntime {ort.__version__}, {free >> 30} of {total >> 30} GiB free"
    return Finding(True, said, {"free": free, "total": total})


def speed(device: Device) -> Finding:
    """A step in ONNX Runtime on the CPU and on the device, x in and y out; what the kernels take is in their own probe."""
    figures = {}
    for layers, hidden in ((1, 128), (1, 512), (2, 1024)) if device.kind == "cuda" else ((1, 128),):
        runtimes = {
            "cpu": OnnxRuntime(exported("LSTM", hidden, layers)[0]),
            str(device): loaded(device, "LSTM", hidden, layers),
        }
        for name, runtime in runtimes.items():
            for rows in (1, 16, 64, 256):
                figures[f"{layers}x{hidden}, {rows} rows, {name}"] = round(trial.seconds(runtime, rows) * 1e6, 1)
    said = ", ".join(f"{k.split(',')[0]}: {v:.0f} us" for k, v in figures.items() if k.endswith(f" 1 rows, {device}"))
    return Finding(True, f"one row on {device}: {said}", figures)


PROBES: dict[str, Callable[[Device], Finding]] = {
    "libraries": libraries,
    "kernel": kernel,
    "float64": exactness.against_float64,
    "in place": memory.in_place,
    "growth": memory.growth,
    "large growth": memory.large_growth,
    "full": memory.full,
    "two threads": faults.two_threads,
    "broken": faults.broken,
    "speed": speed,
    "bits": exactness.bits,
}

if __name__ == "__main__":
    print(json.dumps(asdict(PROBES[sys.argv[1]](Device.parse(sys.argv[2])))))
