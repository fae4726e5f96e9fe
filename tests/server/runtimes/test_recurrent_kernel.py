"""The kernels of a recurrent step: their source, run on the CPU, gives a row the same bits in any batch and by any kernel."""

import ctypes
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import statecell_server.runtimes
from statecell.tensor import Array
from statecell_server.runtimes import recurrent_host
from statecell_server.runtimes.recurrent_kernel import SHAPES, Launcher, shaped
from statecell_server.runtimes.recurrent_step import Step, packed, pieces, units
from statecell_server.runtimes.stack import GATES, Layer, Row

FOLDER = Path(statecell_server.runtimes.__file__).parent
CELLS = ("LSTM", "GRU", "RNN", "RNN of relu")
SLOTS, BATCH = 60, 35


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler")
    source, made = Path(__file__).with_name("recurrent_on_the_host.cc"), tmp_path_factory.mktemp("kernel") / "kernel.so"
    flags = ["-O1", "-w", "-std=c++17", "-ffp-contract=off", "-mfma", "-shared", "-fPIC", "-pthread", f"-I{FOLDER}"]
    subprocess.run(["c++", *flags, "-o", str(made), str(source)], check=True)
    return ctypes.CDLL(str(made))


@dataclass
class Case:
    """A layer, and rows of it that lie all over an arena."""

    layer: Layer
    x: Array  # [BATCH, input_size]
    states: Array  # h and c, [2, SLOTS, hidden_size]
    sources: Array  # [BATCH]

    @classmethod
    def of(cls, cell: str, inputs: int, hidden: int) -> "Case":
        rng, gates = np.random.default_rng(0), GATES[cell[:4].rstrip()]
        kind, scale = cell[:4].rstrip(), 1 / np.sqrt(hidden)
        w, r, b = (
            (rng.uniform(-1, 1, shape) * scale).astype(np.float32)
            for shape in ((gates * hidden, inputs), (gates * hidden, hidden), (2, gates * hidden))
        )
        layer = Layer(kind, w, r, b, Row(0, 0), Row(1, 0) if kind == "LSTM" else None, relu=cell.endswith("relu"))
        states = rng.standard_normal((2, SLOTS, hidden)).astype(np.float32)
        x = rng.standard_normal((BATCH, inputs)).astype(np.float32)
        return cls(layer, x, states, rng.permutation(SLOTS)[:BATCH].astype(np.int64))

    def ran(self, launch: Launcher, batch: int, first: int = 0) -> list[Array]:
        """y, and the arenas after a run of `batch` rows from row `first` on; the last of several rows ends nowhere."""
        layer, hidden = self.layer, self.layer.hidden
        weights, bias = packed(layer)
        rows = slice(first, first + batch)
        x, sources = self.x[rows].copy(), self.sources[rows].copy()
        targets = np.arange(batch, dtype=np.int64)
        targets[1:][-1:] = -1
        y, after = np.full((batch, hidden), 7, np.float32), np.full((2, SLOTS, hidden), 9, np.float32)
        step = Step(batch=batch, inputs=x.shape[1], hidden=hidden, units=units(layer), relu=layer.relu)
        step.x_pieces, step.pieces = pieces(layer)
        step.weights, step.bias, step.x, step.y = (a.ctypes.data for a in (weights, bias, x, y))
        step.h, step.c = (a.ctypes.data for a in self.states)
        step.h_n, step.c_n = (a.ctypes.data for a in after)
        step.sources, step.targets = sources.ctypes.data, targets.ctypes.data
        step.x_stride = x.shape[1]
        step.h_stride = step.c_stride = step.y_stride = step.h_n_stride = step.c_n_stride = hidden
        launch(layer.cell, step)
        ends = targets[targets >= 0]
        assert np.array_equal(after[0][ends], y[: len(ends)]), "y is the next h"
        untouched = np.ones(SLOTS, bool)
        untouched[ends] = False
        assert (after[:, untouched] == 9).all()
        assert layer.cell == "LSTM" or (after[1] == 9).all()
        return [y, *(a[ends] for a in after)]


@dataclass(frozen=True)
class Launch:
    """One of the kernels, whatever the size."""

    library: ctypes.CDLL
    kernel: str

    def __call__(self, cell: str, step: Step) -> None:
        rows, across, warps, _ = SHAPES[self.kernel]
        grid = -(-step.batch // rows), -(-step.hidden // across)
        getattr(self.library, f"launch_{cell.lower()}_{self.kernel}")(*grid, warps, ctypes.byref(step))


def exact(case: Case) -> list[Array]:
    """The next h and c in float64."""
    layer = case.layer
    (of_x, of_h), (h, c) = layer.b.astype(float), case.states[:, case.sources].astype(float)
    over_x = np.split(case.x.astype(float) @ layer.w.T.astype(float) + of_x, GATES[layer.cell], 1)
    over_h = np.split(h @ layer.r.T.astype(float) + of_h, GATES[layer.cell], 1)
    sums = [a + b for a, b in zip(over_x, over_h, strict=True)]
    if layer.cell == "GRU":
        sums = [*sums[:2], over_x[2], over_h[2]]
    h, after = recurrent_host.finish(layer.cell, sums, h, c if layer.c else None, relu=layer.relu)
    return [h] if after is None else [h, after]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("inputs", "hidden"), [(6, 20), (70, 33), (300, 8)])
def test_numpy_does_what_the_equations_say(cell: str, inputs: int, hidden: int) -> None:
    case = Case.of(cell, inputs, hidden)
    found = case.ran(recurrent_host.step, BATCH)
    wanted = exact(case)
    assert np.abs(found[0] - wanted[0]).max() < 2e-6
    if case.layer.c:
        assert np.abs(found[2] - wanted[1][:-1]).max() < 2e-6


def test_a_rows_bits_are_the_same_in_any_batch_in_numpy() -> None:
    case = Case.of("LSTM", 40, 24)
    whole = case.ran(recurrent_host.step, BATCH)
    for first, batch in ((0, 1), (3, 2), (5, 17)):
        assert np.array_equal(case.ran(recurrent_host.step, batch, first)[0], whole[0][first : first + batch])


@pytest.mark.parametrize(
    ("cell", "inputs", "hidden"), [*((cell, 70, 33) for cell in CELLS), ("LSTM", 6, 20), ("GRU", 6, 20), ("GRU", 1100, 9)]
)
def test_every_kernel_gives_the_same_bits_as_the_others_and_what_numpy_gives(
    library: ctypes.CDLL, cell: str, inputs: int, hidden: int
) -> None:
    case = Case.of(cell, inputs, hidden)
    wanted = case.ran(recurrent_host.step, BATCH)
    first = case.ran(Launch(library, "few_8"), BATCH)
    for kernel in SHAPES:
        found = case.ran(Launch(library, kernel), BATCH)
        assert all(np.array_equal(a, b) for a, b in zip(found, first, strict=True)), kernel
    # exp and tanh are other functions there, by a last bit or two.
    assert max(float(np.abs(a - b).max()) for a, b in zip(first, wanted, strict=True)) < 1e-6


@pytest.mark.parametrize("kernel", ["few_1", "few_8", "many_32"])
def test_a_row_alone_has_the_bits_that_it_has_among_others(library: ctypes.CDLL, kernel: str) -> None:
    case = Case.of("GRU", 45, 33)
    whole = case.ran(Launch(library, "most_128"), BATCH)
    for first, batch in ((11, 1), (2, 9), (18, 17)):
        found = case.ran(Launch(library, kernel), batch, first)
        assert np.array_equal(found[0], whole[0][first : first + batch])


@pytest.mark.parametrize("kernel", SHAPES)
def test_the_sums_of_a_kernel_are_numpys_to_the_bit(library: ctypes.CDLL, kernel: str) -> None:
    """An RNN of relu shows its sums as they are."""
    case = Case.of("RNN of relu", 1100, 9)
    assert np.array_equal(case.ran(Launch(library, kernel), BATCH)[0], case.ran(recurrent_host.step, BATCH)[0])


@pytest.mark.parametrize("batch", [1, 2, 7, 64, 65, 256, 1024, 4096])
@pytest.mark.parametrize("hidden", [20, 128, 512, 1024])
def test_a_grid_covers_all_rows_and_units_once(batch: int, hidden: int) -> None:
    kernel, grid, block = shaped("GRU", Step(batch=batch, hidden=hidden, units=-(-hidden // 32) * 32), 132)
    rows, across, warps, _ = SHAPES[kernel.removeprefix("gru_")]
    assert block == (32, warps, 1)
    assert (grid[0] - 1) * rows < batch <= grid[0] * rows
    assert (grid[1] - 1) * across < hidden <= grid[1] * across
