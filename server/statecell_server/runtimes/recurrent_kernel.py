"""Launcher: begins the kernels of recurrent.cu; on the CPU, NumPy does what they do."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from statecell_server.runtimes import driver, recurrent_host
from statecell_server.runtimes.recurrent_step import WIDTH, Step
from statecell_server.runtimes.stream import Size, Stream

SOURCE = Path(__file__).with_name("recurrent.ptx")


class Shape(NamedTuple):
    """Of a block: its rows, units and warps, and what it takes, in times of a block of few_8 (seen on an H200)."""

    rows: int
    units: int
    warps: int
    time: float


SHAPES = {
    "few_1": Shape(1, 8, 32, 0.6),
    "few_4": Shape(4, 8, 32, 0.75),
    "few_8": Shape(8, 8, 32, 1),
    "many_32": Shape(32, 16, 16, 4),
    "most_128": Shape(128, 32, 8, 25),
}

Launcher = Callable[[str, Step], None]
"""Begins a step of a layer: its cell, LSTM, GRU or RNN, and the step. Raises CudaError."""


def launcher(stream: Stream) -> Launcher:
    """Of the stream's device. Raises CudaError."""
    if stream.device.kind == "cpu":
        return recurrent_host.step
    processors = driver.processors(stream.device.index)

    def launch(cell: str, step: Step) -> None:
        kernel, grid, block = shaped(cell, step, processors)
        stream.launch(SOURCE, kernel, grid, block, [step])

    return launch


def shaped(cell: str, step: Step, processors: int) -> tuple[str, Size, Size]:
    """(kernel, grid, block): of the one that takes least time. The bits are the same in any."""

    def grid(shape: Shape) -> Size:
        return -(-step.batch // shape.rows), -(-step.hidden // shape.units), 1

    def time(name: str) -> float:
        across, down, _ = grid(SHAPES[name])
        return -(-across * down // processors) * SHAPES[name].time

    name = min(SHAPES, key=time)
    return f"{cell.lower()}_{name}", grid(SHAPES[name]), (WIDTH, SHAPES[name].warps, 1)
