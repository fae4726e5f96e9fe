"""The models that are probed, and rows to step them with."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import statecell_export
import torch
from statecell.tensor import Array
from statecell_server.arena.arena import StateArena
from statecell_server.device import Device
from statecell_server.runtimes.onnx_device import DeviceRuntime
from torch import nn

FOLDER = Path(__file__).parents[1] / ".cache" / "gpu-check"
"""A model repository for each model, exported once, by the first probe that needs it."""


@cache
def exported(kind: str, hidden: int, layers: int = 1) -> tuple[Path, nn.RNNBase]:
    """(the file, the module): "LSTM", "GRU" or "RNN" with input_size = hidden_size."""
    torch.manual_seed(0)
    module = getattr(nn, kind)(hidden, hidden, layers).eval()
    name = f"{kind.lower()}-{layers}x{hidden}"
    path = FOLDER / name / name / "1" / "model.onnx"
    if not path.exists():
        statecell_export.export(module, torch.randn(2, 2, hidden), name=name, out=FOLDER / name)
    return path, module


def loaded(device: Device, kind: str, hidden: int, layers: int = 1, memory: int = 0) -> DeviceRuntime:
    """On the device, with its states there."""
    return DeviceRuntime(exported(kind, hidden, layers)[0], 1, device, memory)


def arena(runtime: DeviceRuntime, rows: int) -> StateArena:
    """With room for `rows` slots beside the initial one, all of them there."""
    row = sum(s.fresh().nbytes for s in runtime.spec.states)
    made = runtime.arena(max(rows, 1) * row, 1)
    made.allocate(rows)
    made.reserve(made.capacity)
    return made


def step(runtime: DeviceRuntime, within: StateArena, x: Array, sources: Sequence[int], slots: Sequence[int]) -> Array:
    """x [seq_len, batch, input_size] -> y, a copy."""
    plan = runtime.plan(x.shape[0], x.shape[1])
    np.copyto(plan.inputs[0], x)
    within.run(plan, sources, slots)
    return plan.outputs[0].copy()
