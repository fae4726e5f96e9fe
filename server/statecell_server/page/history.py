"""History: what each model did in each of the last seconds, in rings of one size."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from statecell.tensor import Array

from statecell_server.batching.runner import Runner

log = logging.getLogger(__name__)

SECONDS = 300
"""That are kept, one point each."""
MODELS = 64
"""Versions of models that a history is kept of; those that come later have none until others go."""
FIGURES = (
    "time",  # seconds since the epoch
    "steps",  # a second
    "failed",  # of them
    "runs",  # a second
    "rows",  # of a run on average
    "run_p50",  # seconds, as queue_p99
    "run_p99",
    "queue_p50",
    "queue_p99",
    "waiting",  # steps, at the end of the second
    "sessions",
    "state_bytes",
)
"""Of one point. Where nothing ran, those of a run are NaN."""

Key = tuple[str, str]
"""A model and its version."""


@dataclass(frozen=True, slots=True)
class Counts:
    """A runner's counters at one moment."""

    steps: int
    failed: int
    batches: Mapping[int, int]
    durations: Mapping[int, int]
    waits: Mapping[int, int]

    @staticmethod
    def of(runner: Runner) -> "Counts":
        launcher, scheduler = runner.launcher, runner.scheduler
        # Copies made in one go, for the compute thread counts as well.
        counted = (dict(launcher.batches), dict(launcher.durations), dict(launcher.waits))
        return Counts(scheduler.stepped, scheduler.failed, *counted)


@dataclass(slots=True)
class Ring:
    """The last points of one version: [SECONDS, FIGURES] of float64, oldest first from `next` on."""

    runner: Runner
    counts: Counts
    points: Array = field(default_factory=lambda: np.full((SECONDS, len(FIGURES)), np.nan))
    next: int = 0
    length: int = 0

    def add(self, now: float, seconds: float) -> None:
        """A point of what was counted since the last one, `seconds` ago."""
        old, new = self.counts, Counts.of(self.runner)
        self.counts = new
        batches = Counter(new.batches)
        batches.subtract(old.batches)
        runs = sum(batches.values())
        rows = sum(size * times for size, times in batches.items())
        self.points[self.next] = (
            now,
            (new.steps - old.steps) / seconds,
            (new.failed - old.failed) / seconds,
            runs / seconds,
            rows / runs if runs else np.nan,
            *quantiles(old.durations, new.durations),
            *quantiles(old.waits, new.waits),
            self.runner.scheduler.waiting,
            len(self.runner.sessions),
            self.runner.arena.used * self.runner.arena.row_bytes,
        )
        self.next = (self.next + 1) % SECONDS
        self.length = min(self.length + 1, SECONDS)

    def last(self) -> Array:
        """[FIGURES]: the newest point."""
        newest: Array = self.points[self.next - 1]
        return newest

    def all(self) -> Array:
        """[so many, FIGURES], oldest first."""
        rolled: Array = np.roll(self.points, -self.next, axis=0)
        return rolled[SECONDS - self.length :]


class History:
    """`history.start()`; a point a second from then on. Belongs to the event loop; a step pays nothing for it."""

    def __init__(self, runners: Iterable[Runner], clock: Callable[[], float] = time.time) -> None:
        """`runners`: iterated anew at each look."""
        self._runners = runners
        self._clock = clock
        self.rings: dict[Key, Ring] = {}
        self.ticks = 0  # looks made
        self.ticked = asyncio.Event()  # set at each look, and replaced by a new one

    def look(self, seconds: float) -> None:
        """Once every `seconds`."""
        now, rings = self._clock(), self.rings
        self.rings = {}
        for runner in self._runners:
            key = (runner.name, runner.version)
            ring = rings.get(key)
            if ring is not None and ring.runner is runner:
                ring.add(now, seconds)
                self.rings[key] = ring
            elif len(self.rings) < MODELS:
                self.rings[key] = Ring(runner, Counts.of(runner))
        self.ticks += 1
        self.ticked.set()
        self.ticked = asyncio.Event()

    async def keep(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        self.look(1.0)
        while True:
            await asyncio.sleep(1.0)
            now = loop.time()
            try:
                self.look(now - last)
            except Exception:
                log.exception("a look at the models' counters failed; the next one is in a second")
            last = now


def quantiles(old: Mapping[int, int], new: Mapping[int, int]) -> tuple[float, float]:
    """The median and the 99th percentile of what was counted between the two, by the bits of its nanoseconds. In seconds.

    As Prometheus' histogram_quantile: evenly spread within a bucket, here from 2 ** (bits - 1) to 2 ** bits.
    """
    counts = [(bits, count - old.get(bits, 0)) for bits, count in sorted(new.items()) if count > old.get(bits, 0)]
    total = sum(count for _, count in counts)
    if not total:
        return np.nan, np.nan
    found = []
    for part in (0.5, 0.99):
        rank = part * total
        for bits, count in counts:
            if rank <= count:
                floor = 2.0 ** (bits - 1) if bits else 0.0
                found.append((floor + (2.0**bits - floor) * rank / count) / 1e9)
                break
            rank -= count
    return found[0], found[1]
