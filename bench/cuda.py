"""What a GPU gives: python bench/cuda.py [--device cuda:0]. Takes less than five minutes.

Checks each form of a step against an LSTM in float64 NumPy, then measures it at batch 1 to 4096 beside torch.nn.LSTM (cuDNN)
on the same device, and prints tables of steps/s, p50, p99 and bandwidth. A step takes x from the host and brings y back; the
forms differ in where the states are between steps. Without a GPU it says what is missing and exits with 2; --device cpu runs
all of it on the CPU, at smaller batches. Exits with 1 where a result is wrong.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

if __name__ == "__main__":
    # Not this file's own folder: torch imports NVIDIA's package `cuda`, and would find this file.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import statecell_export
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from statecell.tensor import Array
from statecell_server.device import Device
from statecell_server.runtimes.invariance import decide
from statecell_server.runtimes.onnx import OnnxRuntime
from statecell_server.runtimes.onnx_device import DeviceRuntime
from statecell_server.runtimes.ort_session import require
from statecell_server.runtimes.recurrent import RecurrentRuntime
from statecell_server.runtimes.runtime import DeviceError
from torch import nn

from bench.cuda_steps import ArenaStep, CapturedStep, Form, TorchStep, reference

SHAPES = {"1x128": (1, 128), "1x512": (1, 512), "2x1024": (2, 1024)}
"""num_layers and hidden_size; input_size is hidden_size."""
BATCHES = {"cuda": (1, 4, 16, 64, 256, 1024, 4096), "cpu": (1, 8, 32)}
MAY_BE_ABSENT = ("CUDA graph", "torch")
KERNEL, HALF = "kernel", "device arena, float16"
MOST_IN_NUMPY = 128
"""Units of a layer with which NumPy, in the place of the kernel, does not take seconds a step."""
CHECKED = (8, 16)
"""seq_len and batch of the check."""
ALLOWED = {"float32": 2e-5, "float16": 2e-2}
"""Largest error against float64. TF32, which is off, would be near 1e-3."""

console = Console()


@dataclass(frozen=True)
class Cell:
    """One measurement. Times in seconds; bytes_per_second: what a step must read and write at least, over its median time."""

    shape: str
    batch: int
    form: str
    steps_per_second: float  # of all rows together
    p50: float
    p99: float
    bytes_per_second: float


@dataclass
class Report:
    """What is printed, and saved as JSON."""

    about: dict[str, Any]
    errors: dict[str, float] = field(default_factory=dict)  # against float64, by shape and form
    invariance: dict[str, str] = field(default_factory=dict)  # what the server would say of each shape
    absent: dict[str, str] = field(default_factory=dict)  # forms that could not be had, and why
    cells: list[Cell] = field(default_factory=list)


@dataclass(frozen=True)
class Model:
    """One shape: the module, and the forms of its step by name. Each takes a batch."""

    shape: str
    module: nn.LSTM
    runtimes: dict[str, DeviceRuntime]
    forms: dict[str, Callable[[int], Form]]

    @classmethod
    def load(cls, shape: str, folder: Path, device: Device) -> "Model":
        layers, hidden = SHAPES[shape]
        torch.manual_seed(0)
        module = nn.LSTM(hidden, hidden, layers).eval()
        for form in ALLOWED:
            statecell_export.export(module, torch.randn(2, 2, hidden), name=f"{shape}-{form}", out=folder, form=form)
        float32, float16 = (folder / f"{shape}-{form}" / "1" / "model.onnx" for form in ALLOWED)
        threads = torch.get_num_threads()
        runtime = DeviceRuntime(float32, threads, device)
        runtimes = {"device arena": runtime}
        if device.kind == "cuda" or hidden <= MOST_IN_NUMPY:
            runtimes[KERNEL] = RecurrentRuntime(float32, threads, device)
        forms: dict[str, Callable[[int], Form]] = {
            **{name: partial(ArenaStep, made) for name, made in runtimes.items()},
            "host arena": partial(ArenaStep, OnnxRuntime(float32, threads, device)),
            "CUDA graph": partial(CapturedStep, float32, device),
            "torch": partial(TorchStep, module, device),
            HALF: partial(ArenaStep, DeviceRuntime(float16, threads, device)),
        }
        return cls(shape, module, runtimes, forms)

    def least_bytes(self, batch: int) -> int:
        """Every weight once; x, y, and each state in and out, for every row."""
        layers, hidden = SHAPES[self.shape]
        return 4 * (sum(p.numel() for p in self.module.parameters()) + batch * hidden * (2 + 4 * layers))


def check(model: Model, report: Report) -> bool:
    """Whether every form gives what float64 gives, within ALLOWED."""
    x = np.random.default_rng(0).standard_normal((*CHECKED, model.module.hidden_size)).astype(np.float32)
    exact, right = reference(model.module, x), True
    for name, make in model.forms.items():
        try:
            form = make(CHECKED[1])
            y = np.concatenate([form.step(x[t : t + 1]).astype(np.float64) for t in range(CHECKED[0])])
        except Exception as error:  # a form that cannot be had is a finding
            report.absent[f"{model.shape}/{name}"] = f"{type(error).__name__}: {error}"
            right &= name in MAY_BE_ABSENT
            continue
        worst = report.errors[f"{model.shape}/{name}"] = float(np.abs(y - exact).max())
        right &= worst <= ALLOWED["float16" if name == HALF else "float32"]
    return right


def measure(model: Model, batch: int, seconds: float, report: Report) -> None:
    """Every form that check found, at this batch."""
    x = np.random.default_rng(0).standard_normal((1, batch, model.module.hidden_size)).astype(np.float32)
    for name, make in model.forms.items():
        if f"{model.shape}/{name}" in report.absent or name == HALF:
            continue
        try:
            times = timed(make(batch), x, seconds)
        except Exception as error:  # such as one that the device has no memory for
            report.absent[f"{model.shape}/{name}, batch {batch}"] = f"{type(error).__name__}: {error}"
            continue
        p50, p99 = statistics.median(times), float(np.quantile(times, 0.99))
        rate = batch * len(times) / sum(times)
        report.cells.append(Cell(model.shape, batch, name, rate, p50, p99, model.least_bytes(batch) / p50))


def timed(form: Form, x: Array, seconds: float) -> list[float]:
    """The times of single steps, after a quarter as long to warm up."""
    for until in (time.perf_counter() + seconds / 4, time.perf_counter() + seconds * 1.25):
        times: list[float] = []
        while len(times) < 3 or time.perf_counter() < until:
            began = time.perf_counter()
            form.step(x)
            times.append(time.perf_counter() - began)
    return times


def about(device: Device) -> dict[str, Any]:
    """What the figures belong to."""
    names = ("onnxruntime", "onnxruntime-gpu", "torch", "numpy")
    installed = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"] in names}
    name = torch.cuda.get_device_name(device.index) if device.kind == "cuda" and torch.cuda.is_available() else str(device)
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "device": name, **installed}


def table(report: Report, shape: str) -> Table:
    """The cells of one shape."""
    found = Table("batch", "form", "steps/s", "p50 us", "p99 us", "GB/s", title=shape)
    for column in found.columns:
        column.justify = "right"
    for cell in report.cells:
        if cell.shape == shape:
            times = f"{cell.p50 * 1e6:,.0f}", f"{cell.p99 * 1e6:,.0f}"
            found.add_row(
                str(cell.batch), cell.form, f"{cell.steps_per_second:,.0f}", *times, f"{cell.bytes_per_second / 1e9:.1f}"
            )
    return found


def main(
    device: Annotated[str, typer.Option(help="cuda, cuda:N, or cpu to try the script.")] = "cuda",
    seconds: Annotated[float, typer.Option(help="How long one figure is measured.")] = 0.6,
    limit: Annotated[float, typer.Option(help="Seconds after which no more figures are begun.")] = 240,
    shape: Annotated[list[str] | None, typer.Option(help=f"{', '.join(SHAPES)}; repeatable. [default: all]")] = None,
    out: Annotated[Path, typer.Option(help="Folder for cuda-<date>.json.")] = Path(__file__).parent / "results",
) -> None:
    """Check and measure LSTM steps on a GPU. Example: python bench/cuda.py --device cuda:0"""
    began = time.monotonic()
    place = Device.parse(device)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    report = Report(about(place))
    try:
        if place.kind == "cuda":
            require(place)
    except DeviceError as error:
        print(f"bench/cuda.py: {error}; to try the script without a GPU: --device cpu", file=sys.stderr)
        raise typer.Exit(2) from error
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        models = [Model.load(name, Path(folder), place) for name in track(shape or SHAPES, "Exporting", console=console)]
        checked = [check(model, report) for model in track(models, "Checking", console=console)]
        for model in models:
            for name, runtime in model.runtimes.items():
                report.invariance[f"{model.shape}/{name}"] = decide(runtime, "pad", 256).note or "batch invariant"
        cells = [(model, batch) for model in models for batch in BATCHES[place.kind]]
        for model, batch in track(cells, "Measuring", console=console):
            if time.monotonic() - began < limit:
                measure(model, batch, seconds, report)
            else:
                report.absent[f"{model.shape}, batch {batch}"] = f"not begun: {limit:g} s had passed"
    for model in models:
        console.print(table(report, model.shape))
    for title, found in (("error against float64", report.errors), ("batches", report.invariance), ("absent", report.absent)):
        for key, value in found.items():
            console.print(f"{title}: {key}: {value if isinstance(value, str) else f'{value:.1e}'}", highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"cuda-{datetime.now(UTC).date().isoformat()}.json"
    path.write_text(json.dumps(asdict(report), indent=1) + "\n")
    verdict = "every result is right" if all(checked) else "WRONG RESULTS, see the errors"
    console.print(f"{verdict}; {time.monotonic() - began:.0f} s; {path}")
    if not all(checked):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
