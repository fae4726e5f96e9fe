"""Measurement: something to measure once a round. Results: what came of all of them."""

import json
import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

Values = dict[str, float]


@dataclass(frozen=True)
class Measurement:
    """`key` is a path such as "1x128/server/stream 64"."""

    key: str
    run: Callable[[], Values]
    histogram: Callable[[], dict[int, int]] | None = None  # batch sizes, asked when its server has stopped


@dataclass
class Results:
    """Every round of every measurement."""

    about: dict[str, Any]  # date, machine, versions, options
    rounds: dict[str, list[Values]] = field(default_factory=dict)
    histograms: dict[str, dict[int, int]] = field(default_factory=dict)

    def add(self, measurement: Measurement) -> None:
        """One round."""
        self.rounds.setdefault(measurement.key, []).append(measurement.run())

    def get(self, key: str, value: str) -> float | None:
        """The median of the rounds; None: it was not measured."""
        rounds = self.rounds.get(key)
        return statistics.median(values[value] for values in rounds) if rounds else None

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text()))


def machine() -> dict[str, Any]:
    """What the figures belong to."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?")
    siblings = Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    return {
        "cpu": cpu.partition(":")[2].strip(),
        "cores": os.cpu_count(),
        "threads of core 0": siblings.read_text().strip() if siblings.exists() else "?",
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("onnxruntime", "grpcio", "protobuf", "numpy")},
    }
