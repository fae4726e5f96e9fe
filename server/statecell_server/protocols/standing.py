"""Standing calls: those that clients leave open, and that are over when the server is about to stop."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

TELLING_SECONDS = 0.1
"""For watchers to be told that the server ends, before their calls do."""


class Health(health.aio.HealthServicer):  # type: ignore[misc]  # it has no types
    """grpc.health.v1, whose watchers hear at the end that nothing is served, and no more."""

    def __init__(self) -> None:
        super().__init__()
        self._over = asyncio.Event()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """As the base."""
        watching = asyncio.ensure_future(super().Watch(request, context))
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait([watching, over], return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
        finally:
            over.cancel()
            watching.cancel()

    async def enter_graceful_shutdown(self) -> None:
        """NOT_SERVING, to watchers too, and then they end."""
        await super().enter_graceful_shutdown()
        await asyncio.sleep(TELLING_SECONDS)
        self._over.set()


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]  # the same
    """grpc.reflection.v1alpha."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self._over = asyncio.Event()

    async def ServerReflectionInfo(
        self, requests: AsyncIterator[reflection_pb2.ServerReflectionRequest], context: Any
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        """As the base."""
        async for answer in super().ServerReflectionInfo(self._until_over(requests), context):
            yield answer

    def end(self) -> None:
        """What was asked is answered; nothing more is read."""
        self._over.set()

    async def _until_over(
        self, requests: AsyncIterator[reflection_pb2.ServerReflectionRequest]
    ) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        over = asyncio.ensure_future(self._over.wait())
        try:
            while True:
                asked = asyncio.ensure_future(anext(requests))
                await asyncio.wait([asked, over], return_when=asyncio.FIRST_COMPLETED)
                if not asked.done():
                    asked.cancel()
                    return
                try:
                    request = asked.result()
                except StopAsyncIteration:
                    return
                yield request
        finally:
            over.cancel()
