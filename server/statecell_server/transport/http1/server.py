"""HttpServer: uvicorn in the event loop that is there, with sockets and an end of our own."""

import asyncio
import contextlib
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from statecell_server.transport.doorway import Doorway
from statecell_server.transport.http1.connection import REQUEST_SECONDS, Connection
from statecell_server.transport.limits import Limits
from statecell_server.transport.tls import Certificates

LOOK_SECONDS = 5.0
BACKLOG = 128
MOST = 256
"""Connections at once; one more is closed as it comes. All of them are fewer than the descriptors that gRPC leaves free."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are whose process it is."""
        yield


class HttpServer:
    """Serves an ASGI application beside the gRPC server."""

    def __init__(self, app: ASGIApp, limits: Limits, certificates: Certificates | None = None) -> None:
        """Of the limits, those of a request's headers. `certificates`: None: in clear text."""
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            loop="none",
            interface="asgi3",
            log_config=None,
            log_level="error",  # a line for each client that is no HTTP client would be theirs to write
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=int(REQUEST_SECONDS),
            h11_max_incomplete_event_size=limits.metadata,
        )
        self._server = _Server(config)
        self._doorway = Doorway(
            lambda greeted: Connection(config, self._server.server_state, {}).opening(greeted),
            MOST,
            lambda: len(self._server.server_state.connections),
            lambda: None,  # a line for each would be theirs to write
            None if certificates is None else certificates.context,
        )

    @property
    def connections(self) -> int:
        """That are open, or about to be."""
        return len(self._server.server_state.connections) + self._doorway.greeting

    async def listen(self, host: str, port: int) -> int:
        """The port that it listens on: `port`, or a free one where that is 0. Raises OSError."""
        found = await self._doorway.listen(host, port, BACKLOG)
        loop = asyncio.get_running_loop()
        self._serving = loop.create_task(self._server.serve(sockets=[]))  # the doorway has them
        self._looking = loop.create_task(self._look())
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(0.01)
        if self._serving.done():
            self._serving.result()
        return found

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = asyncio.get_running_loop().time()
            for connection in list(self._server.server_state.connections):
                if isinstance(connection, Connection):
                    connection.look(now)

    async def stop(self, grace: float) -> None:
        """No more requests; those that there are have `grace` seconds."""
        self._doorway.close()
        self._server.config.timeout_graceful_shutdown = max(1, int(grace))
        self._server.should_exit = True
        await asyncio.wait([self._serving], timeout=grace + 2)
        self._looking.cancel()
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
