"""Calls, as all servicers here take them: errors become statuses, and streams can be told to end."""

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from grpc_status import rpc_status

from statecell_server.access.caller import Caller
from statecell_server.errors import StatecellError
from statecell_server.protocols.status import write_status
from statecell_server.transport.exchange import Carrier, Exchange
from statecell_server.transport.grpcio_server import caller_of, carrier

Q = TypeVar("Q")
A = TypeVar("A")
Context = grpc.aio.ServicerContext[Any, Any]


def unary(call: Callable[[Any, Q, Caller], Awaitable[A]]) -> Callable[[Any, Q, Context], Awaitable[A]]:
    """A call that knows whose it is, and ends with its error's code and details."""

    @functools.wraps(call)
    async def answer(self: Any, request: Q, context: Context) -> A:
        try:
            return await call(self, request, caller_of(context))
        except StatecellError as error:
            await end(context, error)
            raise AssertionError("a call that has ended goes on") from error

    return answer


async def end(context: Context, error: StatecellError) -> None:
    """Ends the call with the error's code and details."""
    await context.abort_with_status(rpc_status.to_status(write_status(error)))


class Streams:
    """The streams of a servicer that are open."""

    def __init__(self) -> None:
        self._open: set[Carrier] = set()

    async def carry(self, context: Context, exchange: Exchange) -> None:
        """Until the stream's messages are all there and all answered."""
        call = carrier(context)
        self._open.add(call)
        try:
            await call.exchange(exchange)
        finally:
            self._open.discard(call)

    def drain(self) -> None:
        """They answer what they have read, and end."""
        for call in self._open:
            call.drain()
