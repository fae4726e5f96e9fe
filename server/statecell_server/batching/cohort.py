"""Cohort: whether those who were just answered are worth waiting for."""

import time

LONG_SECONDS = 2e-3
"""In front of shorter runs nobody sleeps; a turn of the event loop, in which more steps may be read, is all they are worth."""
PAUSE = 0.05
"""Of a longer run's time: who does not come within it is not on the way."""
MOST = 0.25
"""Of the last run's time, in all."""


class Cohort:
    """Keeps callers together who send their next step when the last one is answered.

    While some of them are still sending, others wait already, and a run that begins at once leaves the first behind: two
    cohorts form and take turns, and two half-full runs take longer than a full one.
    """

    def __init__(self) -> None:
        self.expected = 0  # steps, until they are no longer waited for
        self._seen = 0
        self._pause = self._end = 0.0

    def answered(self, steps: int, waiting: int, seconds: float) -> None:
        """A run of `seconds` has answered so many single steps; others wait."""
        self.expected = steps + waiting
        self._seen = 0
        if seconds > LONG_SECONDS:
            self._pause, self._end = PAUSE * seconds, time.perf_counter() + MOST * seconds
        else:
            self._pause, self._end = 0.0, float("inf")

    def complete(self, waiting: int) -> bool:
        """Whether all have come back, now that so many single steps wait."""
        return waiting >= self.expected

    def pause(self, waiting: int) -> float | None:
        """Seconds to wait before the next look, now that so many single steps wait; 0.0: a turn of the loop; None: go on.

        As long as more of them come; not at all where all have come back, as one caller alone always has.
        """
        if not waiting:
            return None  # nothing to launch; the first of them is still on the way
        if self._seen < waiting and not self.complete(waiting) and time.perf_counter() < self._end:
            self._seen = waiting
            return self._pause
        self.expected = 0
        return None
