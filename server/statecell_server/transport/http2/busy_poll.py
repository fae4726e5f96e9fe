"""BusyPoll: a moment in which the event loop looks for the next message, in place of going to sleep."""

import asyncio
import time

SECONDS = 100e-6
"""After an answer. Whoever steps one session in a closed loop is back by then; a core that sleeps takes some 30 us to wake."""
REST = 16
"""Answers that no look follows, after one in vain: clients who take their time cost the server 6 us an answer, not 100."""


class BusyPoll:
    """Of all of a server's connections. Belongs to the event loop."""

    def __init__(self) -> None:
        self.looking = False
        self._until = 0.0
        self._rest = 0

    def answered(self) -> None:
        """Something was sent: keeps the loop awake for a while."""
        if self._rest:
            self._rest -= 1
            return
        self._until = time.perf_counter() + SECONDS
        if not self.looking:
            self.looking = True
            asyncio.get_running_loop().call_soon(self._look)

    def heard(self) -> None:
        """A message has come: there is something to do."""
        self._until = 0.0

    def _look(self) -> None:
        """One turn of the loop, which does not sleep while there is another to come."""
        if time.perf_counter() < self._until:
            asyncio.get_running_loop().call_soon(self._look)
            return
        self.looking = False
        if self._until:
            self._rest = REST
