"""TokenBucket: how much of what costs the server more than the client one client may do."""

import time


class TokenBucket:
    """`bucket.spend()` is False when `burst` were spent at once, or more than `rate` a second for long."""

    def __init__(self, burst: int, rate: float) -> None:
        self._burst, self._rate = burst, rate
        self._left = float(burst)
        self._then = time.monotonic()

    def spend(self, amount: int = 1) -> bool:
        self._left -= amount
        if self._left < 0:
            now = time.monotonic()
            self._left = min(self._left + (now - self._then) * self._rate, self._burst)
            self._then = now
        return self._left >= 0
