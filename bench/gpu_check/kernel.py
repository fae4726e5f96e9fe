"""Probe of the kernels for LSTM, GRU and RNN layers: their bits, errors, and times beside cuDNN and ONNX Runtime."""

import copy
import time
from statistics import median
from typing import Any

import numpy as np
import torch
from statecell_server.device import Device
from statecell_server.runtimes import trial
from statecell_server.runtimes.recurrent import RecurrentRuntime
from statecell_server.runtimes.recurrent_run import RecurrentRun

from bench.gpu_check.exactness import Sweep, same
from bench.gpu_check.finding import Finding
from bench.gpu_check.models import arena, exported, loaded, step

ALLOWED = 5e-6
"""Largest error against float64 after 8 steps."""
LENGTHS = (1, 2, 8)
REPEATS = 40
"""Launches that are timed together, as a CUDA graph."""


def kernel(device: Device) -> Finding:
    """Runs of 1 to 1,024 rows and 1 to 8 steps give a row one result, to the bit."""
    gpu = device.kind == "cuda"
    shapes = [("LSTM", 1, 128), ("LSTM", 1, 512), ("LSTM", 2, 1024), ("GRU", 1, 512), ("RNN", 1, 512)]
    figures: dict[str, dict[str, Any]] = {}
    for kind, layers, hidden in shapes if gpu else [(k, n, 16) for k, n, _ in shapes]:
        name = f"{kind} {layers}x{hidden}"
        runtime = RecurrentRuntime(exported(kind, hidden, layers)[0], 1, device)
        top, lengths = (1024, LENGTHS) if gpu else (9, LENGTHS[:2])
        figures[name] = {
            "error": error(runtime, kind, hidden, layers),
            "other bits": differing(runtime, top, lengths),
            "us": {str(rows): times(runtime, device, kind, hidden, layers, rows) for rows in ((1, 64, 1024) if gpu else (2,))},
        }
    worst = max(f["error"] for f in figures.values())
    others = [f"{name}: {', '.join(f['other bits'])}" for name, f in figures.items() if f["other bits"]]
    said = f"{'; '.join(others) or 'the same bits at every size'}; largest error {worst:.1e}"
    if gpu:
        ratios = [f"{name} {r} rows {t['kernel'] / t['cuDNN']:.2f}" for name, f in figures.items() for r, t in f["us"].items()]
        said += f"; times cuDNN's own: {', '.join(ratios)}"
    return Finding(not others and worst <= ALLOWED, said, figures)


def error(runtime: RecurrentRuntime, kind: str, hidden: int, layers: int) -> float:
    """The largest of 8 steps of 16 rows, against the module in float64."""
    within, rows = arena(runtime, 32), 16
    x = np.random.default_rng(1).standard_normal((8, rows, hidden)).astype(np.float32)
    here, there = list(range(1, 17)), list(range(17, 33))
    within.write(here, [s.fresh(rows) for s in runtime.spec.states])
    ys = []
    for t in range(len(x)):
        ys.append(step(runtime, within, x[t : t + 1], here, there))
        here, there = there, here
    with torch.no_grad():
        exact, _ = copy.deepcopy(exported(kind, hidden, layers)[1]).double()(torch.from_numpy(x).double())
    return float(np.abs(np.concatenate(ys) - exact.numpy()).max())


def differing(runtime: RecurrentRuntime, top: int, lengths: tuple[int, ...]) -> list[str]:
    """The sizes, seq_len x batch, at which a row has other bits than stepped alone."""
    sweep = Sweep(runtime, top, lengths)
    alone = sweep.stepped(runtime.spec.min_batch)
    batches = sorted({n for p in range(top.bit_length()) for n in (2**p, 2**p + 1) if runtime.spec.min_batch <= n <= top})
    return [f"{n}x{b}" for b in batches for n in lengths if not same(sweep.run(n, b), alone[n])]


def times(runtime: RecurrentRuntime, device: Device, kind: str, hidden: int, layers: int, rows: int) -> dict[str, float]:
    """Microseconds: a step of the kernels and in ONNX Runtime, x in and y out; the kernels and cuDNN's by themselves."""
    rows = max(rows, runtime.spec.min_batch)
    found = {
        "step": trial.seconds(runtime, rows),
        "step in ONNX Runtime": trial.seconds(loaded(device, kind, hidden, layers), rows),
    }
    run = runtime.plan(1, rows).bound
    assert isinstance(run, RecurrentRun)

    def begin() -> None:
        for _ in range(REPEATS):
            run.begin_kernels()

    again = run.stream.record(begin)
    run.stream.enter()
    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        again()
        run.stream.wait()
        seconds.append((time.perf_counter() - began) / REPEATS)
    found["kernel"] = median(seconds)
    if device.kind == "cuda":
        found["cuDNN"] = cudnn(exported(kind, hidden, layers)[1], rows)
    return {name: round(value * 1e6, 1) for name, value in found.items()}


def cudnn(module: torch.nn.RNNBase, rows: int) -> float:
    """Seconds of a step of the module on cuda:0, x and states there, without what its launches take and without TF32."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    module = copy.deepcopy(module).cuda()
    x = torch.randn(1, rows, module.input_size, device="cuda")
    h = torch.randn(module.num_layers, rows, module.hidden_size, device="cuda")
    state = (h, h) if isinstance(module, torch.nn.LSTM) else h
    graph, seconds = torch.cuda.CUDAGraph(), []
    with torch.no_grad():
        for _ in range(3):
            module(x, state)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            for _ in range(REPEATS):
                module(x, state)
    for _ in range(10):
        torch.cuda.synchronize()
        began = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - began) / REPEATS)
    return median(seconds)
