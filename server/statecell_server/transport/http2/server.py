"""Server: listens, and serves the servicers that were added to it."""

import asyncio
import contextlib
import logging
import resource
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import grpc

from statecell_server.access.tokens import Tokens
from statecell_server.transport.doorway import Doorway
from statecell_server.transport.exchange import DirectHandler
from statecell_server.transport.http2.call import Method
from statecell_server.transport.http2.connection import FAREWELL_SECONDS, Connection
from statecell_server.transport.http2.memory import Memory
from statecell_server.transport.http2.messages import Aborted
from statecell_server.transport.http2.shared import Shared
from statecell_server.transport.limits import Limits
from statecell_server.transport.tls import Certificates
from statecell_server.transport.watch import Watch

BACKLOG = 4096
"""Connections that may wait to be accepted: all of a server's clients come at once after a restart."""


LOOK_SECONDS = 5.0
SPARE = 512
"""File descriptors for all that is no connection of this server, those of the HTTP port among it."""

log = logging.getLogger(__name__)


def _descriptors() -> int:
    """That this process may have; as many as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # then it stays as it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(2 * SPARE, soft) if soft != resource.RLIM_INFINITY else 1 << 30


class Server:
    """Takes servicers as grpc.aio.server() does; their methods are coroutines or asynchronous generators."""

    def __init__(
        self,
        limits: Limits,
        certificates: Certificates | None = None,
        tokens: Tokens | None = None,
        watch: Watch | None = None,
    ) -> None:
        """`certificates`: None: in clear text. `tokens`: None: nobody is asked for one. `watch`: is told of every call."""
        self._watch = watch
        self._limits = limits
        self._certificates = certificates
        self._tokens = tokens
        self._handlers: dict[str, Method] = {}
        self._connections: set[Connection] = set()
        self._full = False  # which was said
        self._looking: asyncio.Task[None] | None = None

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

    async def listen(self, host: str, port: int, *, shared: bool = False) -> int:
        """The port that it listens on: `port`, or a free one where that is 0. Raises OSError.

        `shared`: with the other processes of this user that listen there so.
        """
        self._begin()
        return await self._doorway.listen(host, port, BACKLOG, shared=shared)

    async def listen_unix(self, path: str) -> None:
        """On a Unix socket. Raises OSError."""
        self._begin()
        self._doorway.listen_unix(path, BACKLOG)

    def _begin(self) -> None:
        self._limits = replace(self._limits, connections=min(self._limits.connections, _descriptors() - SPARE))
        self._shared = Shared(self._handlers, self._limits, self._tokens, self._watch)
        loop = asyncio.get_running_loop()
        self._looking = loop.create_task(self._look())
        context = None if self._certificates is None else self._certificates.context
        self._doorway = Doorway(
            lambda greeted: Connection(self._shared, self._connections, greeted),
            self._limits.connections,
            lambda: len(self._connections),
            self._refused,
            context,
        )

    @property
    def memory(self) -> Memory:
        """What connections keep. After `listen`."""
        return self._shared.memory

    @property
    def connections(self) -> int:
        """That are open, or about to be."""
        return len(self._connections) + self._doorway.greeting

    @property
    def closed(self) -> Mapping[str, int]:
        """Connections that were closed because their clients broke a rule, by HTTP/2's name of the error. After `listen`."""
        return self._shared.complaints.closed

    def _refused(self) -> None:
        if not self._full:
            self._full = True
            log.warning("%d connections are open, more are closed at once (--max-connections)", self.connections)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            self._full = False
            self._shared.complaints.look()
            for connection in list(self._connections):
                connection.look(now)

    async def stop(self, grace: float) -> None:
        """No more calls; those that there are have `grace` seconds, and connections a little longer to close."""
        self._doorway.close()
        if self._looking is not None:
            self._looking.cancel()
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
