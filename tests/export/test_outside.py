"""What a trace cannot follow, and what it would get wrong in silence, is refused by the line that does it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from statecell_export import ModuleRefusedError, export
from torch import Tensor, nn

X = torch.randn(5, 2, 3)


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(3, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0])  # type: ignore[no-any-return]


class ThroughNumPy(Around):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.from_numpy(np.tanh(x.numpy())))


class ThroughAnArray(Around):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float(np.asarray(x.detach()).std())


class ThroughLists(Around):
    def forward(self, x: Tensor) -> Tensor:
        rows = [[[2 * value for value in row] for row in step] for step in x.tolist()]
        return super().forward(torch.tensor(rows))


class AfterTheRecurrence(Around):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(super().forward(x).detach().cpu().numpy() ** 2)


class OnlyKeeps(Around):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        self.shown = y.detach().numpy()
        return y


@pytest.mark.parametrize("kind", [ThroughNumPy, ThroughAnArray, ThroughLists, AfterTheRecurrence])
def test_values_that_leave_pytorch_and_come_back_are_refused_by_their_line(kind: type[nn.Module], tmp_path: Path) -> None:
    with pytest.raises(
        ModuleRefusedError, match=rf"{kind.__name__}\.forward computes with values outside .*test_outside\.py:\d+"
    ):
        export(kind(), X, name="outside", out=tmp_path)
    assert not list(tmp_path.rglob("model.*"))


def test_values_that_leave_pytorch_only_to_be_kept_are_left_alone(tmp_path: Path) -> None:
    assert export(OnlyKeeps(), X, name="shown", out=tmp_path).spec.streamable


class Squeezes(Around):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze()


class SqueezesTheBatch(Around):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gru(x)[0]
        return y.squeeze(1)


@pytest.mark.parametrize(("kind", "axis"), [(Squeezes, "seq_len"), (SqueezesTheBatch, "batch")])
@pytest.mark.parametrize("sizes", [(5, 2), (5, 1), (1, 2)])
def test_an_axis_that_goes_where_its_size_is_1_is_named(
    kind: type[nn.Module], axis: str, sizes: tuple[int, int], tmp_path: Path
) -> None:
    lines = ["x:float32[seq_len,batch,3]"] if 1 in sizes else torch.randn(*sizes, 3)
    with pytest.raises(ModuleRefusedError, match=rf"where {axis} is 1, .*squeeze\(-1\)"):
        export(kind(), lines, name="squeezed", out=tmp_path)


@pytest.mark.parametrize("form", ["float32", "int8"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value: float, form: str, tmp_path: Path) -> None:
    module = Around()
    module.get_parameter("gru.weight_hh_l0").data[1, 2] = value
    with pytest.raises(ModuleRefusedError, match=r"'gru\.weight_hh_l0' has values that are not finite"):
        export(module, X, name="diverged", out=tmp_path, form=form)


def test_a_class_in_place_of_a_module_is_told_to_be_made(tmp_path: Path) -> None:
    with pytest.raises(ModuleRefusedError, match=r"the class Around, .*Around\(…\)"):
        export(Around, X, name="made", out=tmp_path)  # type: ignore[arg-type]


TYPED = """
import sys, torch
from torch import nn
from statecell_export import ExportError, export

class Typed(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4)

    def forward(self, x, h):
        if x.abs().max() > 9:
            x = x / 2
        return self.gru(x, h)

try:
    export(Typed(), ["x:float32[seq_len,1,3]", "h:float32[1,1,4]"], name="typed", out=sys.argv[1])
except ExportError as error:
    print(error, *error.__notes__)
"""


def test_a_class_that_is_in_no_file_is_told_to_be_written_into_one(tmp_path: Path) -> None:
    told = subprocess.run([sys.executable, "-", str(tmp_path)], input=TYPED, capture_output=True, text=True, check=True).stdout
    assert "in no file; write the class into a .py file" in told
