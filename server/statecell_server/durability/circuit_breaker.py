"""CircuitBreaker: a store in trouble is left alone until it answers again."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from statecell_server.durability.store import StateStore, Write
from statecell_server.errors import StatecellError, StoreUnavailable

log = logging.getLogger(__name__)
T = TypeVar("T")

FAILURES = 3
"""Calls in a row without an answer, after which no more are made."""
PROBE_SECONDS = 0.5


class CircuitBreaker:
    """A StateStore around another one, with a circuit breaker.

    After FAILURES calls without an answer the circuit opens: calls fail at once, so that nothing waits for a dead store. A ping
    every PROBE_SECONDS closes it again, and finds out about trouble before a session does.
    """

    def __init__(self, store: StateStore, changed: Callable[[], None] = lambda: None) -> None:
        """`changed` is called when `open` has changed."""
        self._store = store
        self._changed = changed
        self._failures = 0
        self.open = False
        self.durations: Counter[int] = Counter()  # calls that were answered, by the bits that their nanoseconds take
        self.busy = 0  # nanoseconds, all of those together
        self.unanswered = 0  # calls

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self._count(self._store.ping())
            except StoreUnavailable as error:
                log.debug("%s", error)
            await asyncio.sleep(PROBE_SECONDS)

    async def write(self, writes: Sequence[Write]) -> list[StatecellError | None]:
        return await self._guard(lambda: self._store.write(writes))

    async def load(self, session_ids: Sequence[str]) -> list[bytes | None]:
        return await self._guard(lambda: self._store.load(session_ids))

    async def delete(self, session_id: str) -> bool:
        return await self._guard(lambda: self._store.delete(session_id))

    async def ping(self) -> None:
        await self._guard(self._store.ping)

    async def close(self) -> None:
        await self._store.close()

    async def _guard(self, call: Callable[[], Awaitable[T]]) -> T:
        if self.open:
            raise StoreUnavailable("the store does not answer; nothing was sent to it", applied="no")
        return await self._count(call())

    @staticmethod
    async def _answer(call: Awaitable[T]) -> T:
        """Whatever else a library raises, whoever waits is told that there was no answer."""
        try:
            return await call
        except StatecellError:
            raise
        except Exception as error:
            log.exception("a call of the store failed")
            raise StoreUnavailable(f"the store does not answer: {type(error).__name__}: {error}") from error

    async def _count(self, call: Awaitable[T]) -> T:
        began = time.perf_counter_ns()
        try:
            result = await self._answer(call)
        except StoreUnavailable as error:
            self._failures += 1
            self.unanswered += 1
            if self._failures >= FAILURES and not self.open:
                log.error("the store is out of reach, durable sessions have to wait: %s", error)
                self.open = True
                self._changed()
            raise
        nanoseconds = time.perf_counter_ns() - began
        self.durations[nanoseconds.bit_length()] += 1
        self.busy += nanoseconds
        self._failures = 0
        if self.open:
            log.warning("the store answers again")
            self.open = False
            self._changed()
        return result
