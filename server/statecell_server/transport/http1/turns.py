"""Turns: of all that HTTP requests compute in the event loop, one piece in one of its turns. The others' turns are gRPC's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """`async with turns.one():` around what reads a large request or writes a large answer, and around no waiting."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """The first who asked has the first."""
        async with self._lock:
            yield
            await asyncio.sleep(0)
