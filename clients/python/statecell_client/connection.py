"""Calls over one or several addresses: written once, carried by a blocking or by an asyncio transport.

The functions here are coroutines. Under the blocking transport none of them ever waits: `run` takes each to its end in one go.
"""

import random
from collections.abc import AsyncGenerator, Awaitable, Generator, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message
from statecell.v1 import inference_pb2 as wire

from statecell_client import address
from statecell_client.errors import ServerUnreachable, StatecellError
from statecell_client.retry import Attempts, Retry, Route

T = TypeVar("T")
Headers = tuple[tuple[str, str], ...]


def channel_options(silence: float) -> tuple[tuple[str, int], ...]:
    """For channels that find out within `silence` seconds that a peer is gone without a word."""
    return (
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", int(silence * 1000 * 2 / 3)),
        ("grpc.keepalive_timeout_ms", int(silence * 1000 / 3)),
        # gRPC's probes of the bandwidth hold keepalive back until they are answered: a minute, unless told otherwise.
        ("grpc.http2.ping_timeout_ms", int(silence * 1000 / 3)),
        ("grpc.http2.max_pings_without_data", 0),
        # A server that comes back is found at once, not within gRPC's two minutes; an attempt to connect may take five.
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 250),
        # Retries are this package's: gRPC's own would not move on to another address.
        ("grpc.enable_retries", 0),
        # Clients of one process do not share a connection: servers balance connections.
        ("grpc.use_local_subchannel_pool", 1),
    )


class Duplex(Protocol):
    """An open StreamSteps call. Raises StatecellError where it breaks."""

    async def write(self, request: wire.StreamStepsRequest) -> None: ...
    async def read(self) -> wire.StreamStepsResponse: ...
    def cancel(self) -> None: ...


class Transport(Protocol):
    """What differs between blocking and asyncio. Errors are StatecellError, decoded."""

    async def call(self, address: str, rpc: str, request: Message, timeout: float, headers: Headers) -> Any: ...
    async def open(self, address: str, headers: Headers) -> Duplex: ...
    async def pause(self, seconds: float) -> None: ...
    async def close(self) -> None: ...


def run(awaitable: Awaitable[T]) -> T:
    """The result of a coroutine that never waits, because what it calls blocks instead."""
    steps = awaitable.__await__()
    try:
        next(steps)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("a blocking transport waited")


def iterate(items: AsyncGenerator[T]) -> Generator[T]:
    """The items of an asynchronous generator that never waits."""
    try:
        while True:
            try:
                item = run(anext(items))
            except StopAsyncIteration:
                return
            yield item
    finally:
        run(items.aclose())


class Connection:
    """The addresses of one service and how calls to it are repeated."""

    def __init__(self, transport: Transport, addresses: str | Sequence[str], retry: Retry) -> None:
        where = address.several(addresses)
        self._transport = transport
        self.route = Route(where, random.randrange(len(where)))  # so that many clients spread
        self.retry = retry
        self.reached = False
        self._closed = False

    def attempts(self, route: Route, timeout: float | None = None) -> Attempts:
        return Attempts(route, self.retry if timeout is None else replace(self.retry, timeout=timeout), self.reached)

    def next_route(self) -> Route:
        """Where to create the next session: the addresses take turns."""
        self.route.index = (self.route.index + 1) % len(self.route.addresses)
        return replace(self.route)

    async def call(
        self, rpc: str, request: Message, route: Route | None = None, session_id: str = "", timeout: float | None = None
    ) -> Any:
        """The reply, after as many attempts as it takes. Raises StatecellError."""
        attempts = self.attempts(route or self.route, timeout)
        headers = headers_of(session_id)
        while True:
            try:
                reply = await self.open_transport().call(
                    attempts.route.address, rpc, request, max(attempts.left, 0.001), headers
                )
            except StatecellError as error:
                self.heard(error)
                pause = attempts.failed(error)
            else:
                self.heard()
                return reply
            await self._transport.pause(pause)

    def open_transport(self) -> Transport:
        """Raises ValueError once it is closed."""
        if self._closed:
            raise ValueError("the client is closed; step its sessions within its with block, or make another client")
        return self._transport

    async def close(self) -> None:
        self._closed = True
        await self._transport.close()

    def heard(self, error: StatecellError | None = None) -> None:
        """Remembers that somebody answered."""
        self.reached = self.reached or not isinstance(error, ServerUnreachable)


def headers_of(session_id: str) -> Headers:
    """Balancers may keep a session on its replica by this header; that is faster, not needed."""
    return (("x-session-id", session_id),) if session_id else ()
