"""Probes of results: against float64, from run to run, and from one size of a run to another."""

import numpy as np
from statecell.tensor import Array
from statecell_server.device import Device
from statecell_server.runtimes.onnx_device import DeviceRuntime
from torch import nn

from bench.cuda_steps import reference
from bench.gpu_check.finding import Finding
from bench.gpu_check.models import arena, exported, loaded, step

ALLOWED = 2e-5
"""Largest error against float64. TF32, which is off, would be near 1e-3."""
LENGTHS = (1, 2, 3, 4, 8, 16, 32, 64)
PROBES = 7


def against_float64(device: Device) -> Finding:
    """Eight steps of 16 rows."""
    errors = {}
    for layers, hidden in ((1, 128), (2, 512), (1, 1024)) if device.kind == "cuda" else ((1, 128),):
        _, module = exported("LSTM", hidden, layers)
        assert isinstance(module, nn.LSTM)
        runtime = loaded(device, "LSTM", hidden, layers)
        within = arena(runtime, 32)
        x = np.random.default_rng(1).standard_normal((8, 16, hidden)).astype(np.float32)
        here, there = list(range(1, 17)), list(range(17, 33))
        within.write(here, [s.fresh(16) for s in runtime.spec.states])
        ys = []
        for t in range(8):
            ys.append(step(runtime, within, x[t : t + 1], here, there))
            here, there = there, here
        errors[f"{layers}x{hidden}"] = float(np.abs(np.concatenate(ys) - reference(module, x)).max())
    worst = max(errors.values())
    return Finding(worst <= ALLOWED, f"largest error {worst:.1e}, allowed {ALLOWED:.0e}", errors)


def bits(device: Device) -> Finding:
    """Which sizes of a run give a row other bits than stepping it alone. Two runs of a size must agree."""
    gpu = device.kind == "cuda"
    top, lengths = (1024, LENGTHS) if gpu else (32, LENGTHS[:4])
    figures: dict[str, dict[str, list[str]]] = {}
    for hidden in (128, 512, 1024) if gpu else (128,):
        sweep = Sweep(loaded(device, "LSTM", hidden), top, lengths)
        alone = sweep.stepped(1)
        found: dict[str, list[str]] = {"uneven": [], "batch": [], "length": []}
        for batch in sorted({n for p in range(top.bit_length()) for n in (2**p, 2**p + 1) if n <= top}):
            stepped = sweep.stepped(batch)
            if not same(stepped[lengths[-1]], alone[lengths[-1]]):
                found["batch"].append(str(batch))
            for length in lengths:
                once, again = sweep.run(length, batch), sweep.run(length, batch)
                if not same(once, again) or not all(np.array_equal(a, a[:, :PROBES][:, sweep.members(batch)]) for a in once):
                    found["uneven"].append(f"{length}x{batch}")
                if not same(once, stepped[length]):
                    found["length"].append(f"{length}x{batch}")
        figures[str(hidden)] = found
    said = "; ".join(f"{h}: {len(f['batch'])} batches, {len(f['length'])} lengths differ" for h, f in figures.items())
    return Finding(not any(f["uneven"] for f in figures.values()), said, figures)


class Sweep:
    """The same few rows in runs of every size."""

    def __init__(self, runtime: DeviceRuntime, top: int, lengths: tuple[int, ...]) -> None:
        """Runs of `top` rows at most."""
        hidden, rng = int(runtime.spec.outputs[0].shape[-1]), np.random.default_rng(0)
        self._runtime, self._lengths = runtime, lengths
        self._arena = arena(runtime, 2 * top)
        self._x = rng.standard_normal((lengths[-1], PROBES, hidden)).astype(np.float32)
        self._states = [rng.standard_normal((1, PROBES, hidden)).astype(np.float32) for _ in runtime.spec.states]

    @staticmethod
    def members(batch: int) -> list[int]:
        return [row % PROBES for row in range(batch)]

    def run(self, length: int, batch: int) -> list[Array]:
        """y and the next states, of one run."""
        members, here, there = self._slots(batch)
        y = step(self._runtime, self._arena, self._x[:length, members], here, there)
        return [y, *self._arena.read(there)]

    def stepped(self, batch: int) -> dict[int, list[Array]]:
        """The same step by step, for each length."""
        members, here, there = self._slots(batch)
        ys, found = [], {}
        for t in range(self._lengths[-1]):
            ys.append(step(self._runtime, self._arena, self._x[t : t + 1, members], here, there))
            here, there = there, here
            if t + 1 in self._lengths:
                found[t + 1] = [np.concatenate(ys), *self._arena.read(here)]
        return found

    def _slots(self, batch: int) -> tuple[list[int], list[int], list[int]]:
        members, here = self.members(batch), list(range(1, batch + 1))
        self._arena.write(here, [s[:, members] for s in self._states])
        return members, here, [batch + slot for slot in here]


def same(some: list[Array], others: list[Array]) -> bool:
    """Whether the probes that both have are the same to the bit."""
    rows = min(some[0].shape[1], others[0].shape[1], PROBES)
    return all(np.array_equal(a[:, :rows], b[:, :rows]) for a, b in zip(some, others, strict=True))
