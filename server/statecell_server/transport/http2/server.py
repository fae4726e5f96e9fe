"""Server: listens, and serves the servicers that were added to it."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import grpc

from statecell_server.transport.exchange import DirectHandler
from statecell_server.transport.http2.busy_poll import BusyPoll
from statecell_server.transport.http2.call import Method
from statecell_server.transport.http2.connection import FAREWELL_SECONDS, Connection
from statecell_server.transport.http2.messages import Aborted

BACKLOG = 4096
"""Connections that may wait to be accepted: all of a server's clients come at once after a restart."""


class Server:
    """Takes servicers as grpc.aio.server() does; their methods are coroutines or asynchronous generators."""

    def __init__(self, max_message: int) -> None:
        """`max_message`: bytes of a request at most."""
        self._max_message = max_message
        self._handlers: dict[str, Method] = {}
        self._connections: set[Connection] = set()
        self._poll = BusyPoll()

    def add_generic_rpc_handlers(self, _: Iterable[grpc.GenericRpcHandler]) -> None:
        """As registered method handlers the same methods come once more."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """`handlers`: grpc.RpcMethodHandler by the method's name."""
        self._handlers |= {f"/{service}/{method}": Method(handler) for method, handler in handlers.items()}

    def add_direct_handlers(self, service: str, handlers: Mapping[str, DirectHandler]) -> None:
        """`handlers`: what is asked first, by the method's name; of methods that were added, of one message and answer."""
        for name, direct in handlers.items():
            path = f"/{service}/{name}"
            self._handlers[path] = self._handlers[path]._replace(direct=direct)

    async def listen(self, host: str, port: int) -> int:
        """The port that it listens on: `port`, or a free one where that is 0. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._connection, host, port, backlog=BACKLOG)
        found: int = self._listener.sockets[0].getsockname()[1]
        return found

    def _connection(self) -> Connection:
        return Connection(self._handlers, self._max_message, self._connections, self._poll)

    async def stop(self, grace: float) -> None:
        """No more calls; those that there are have `grace` seconds, and connections a little longer to close."""
        self._listener.close()
        for connection in list(self._connections):
            connection.leave()
        await self._until(lambda: not any(c.calls for c in self._connections), grace)
        stopped = Aborted(grpc.StatusCode.UNAVAILABLE, "the server has stopped")
        for connection in list(self._connections):
            for call in list(connection.calls):
                call.cancel(stopped)
        await self._until(lambda: not self._connections, FAREWELL_SECONDS)

    @staticmethod
    async def _until(true: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not true() and time.monotonic() < end:
            await asyncio.sleep(0.01)
