"""Statistics: how often a model ran, with how many rows, and for how long."""

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Runs:
    """Those of one size. A run of several time steps is one."""

    count: int = 0
    ns: int = 0


class Statistics:
    """Since the model was loaded. Written by the compute thread, read by the event loop."""

    def __init__(self) -> None:
        self.last = 0.0  # time.time() of the last run's end
        self._runs: dict[int, Runs] = {}

    def ran(self, rows: int, ns: int) -> None:
        """A run of so many rows has taken so long."""
        old = self._runs.get(rows, Runs())
        self._runs[rows] = Runs(old.count + 1, old.ns + ns)
        self.last = time.time()

    def by_rows(self) -> dict[int, Runs]:
        """All runs by their number of rows."""
        return dict(sorted(self._runs.copy().items()))
