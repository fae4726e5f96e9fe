"""Turns: each connection gets a share of a turn of the event loop, and what it sends beyond that waits for the next."""

import asyncio
import time
from collections import deque
from typing import Protocol

SHARE = 0.5e-3
"""Seconds of a turn in which one connection's frames are read, while there are others."""
ALONE, ALONE_AFTER = 10e-3, 0.1
"""The same, of one beside which no other had anything to be read for so many seconds."""
ALL = 0.5e-3
"""The same, of all connections together that have sent more than their shares."""
CALM = 0.02
"""Seconds after which one is no longer taken for such a one."""
FRAMES = 8
"""Small ones with data that are read between two looks at the clock; after any other it is looked at."""


class Reader(Protocol):
    """A connection that has more to be read than its share."""

    def read_on(self) -> None:
        """Its next share."""


class Turns:
    """Of all of a server's connections. Belongs to the event loop."""

    def __init__(self) -> None:
        self._waiting: deque[Reader] = deque()
        self._scheduled = False
        self._last, self._since = 0, 0.0  # who is read, and since when nobody else was

    def share(self, reader: Reader, now: float) -> float:
        """Seconds for which it may be read now."""
        if self._last != id(reader):  # its id, for it must not be kept alive by this
            self._last, self._since = id(reader), now
        return ALONE if now - self._since > ALONE_AFTER else SHARE

    def wait(self, reader: Reader) -> None:
        """It is read on in the next turn, or in one after that."""
        self._waiting.append(reader)
        self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        """Those who waited, one after the other, as far as the turn goes."""
        self._scheduled = False
        end = time.perf_counter() + ALL
        for _ in range(len(self._waiting)):  # whoever has still more comes behind the others, in a later turn
            self._waiting.popleft().read_on()
            if time.perf_counter() > end:
                break
        self._schedule()
