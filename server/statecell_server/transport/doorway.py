"""Doorway: accepts connections, and counts those that are still shaking hands."""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

ACCEPTED_A_TURN = 16
"""Connections that are taken from one listener in a turn of the event loop."""
HANDSHAKE_SECONDS = 20.0
GOODBYE_SECONDS = 1.0
"""For TLS to be ended by both sides."""
PAUSE_SECONDS = 0.5
"""Until the next try, where the system has no more descriptors or memory for a connection."""
SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
NAGGED_SECONDS = 60.0
"""Between two lines in the log about that."""


class Doorway:
    """One over the most is closed at once, whether the others have greeted or not. Belongs to the event loop."""

    def __init__(
        self,
        factory: Callable[[Callable[[], None]], asyncio.Protocol],
        most: int,
        opened: Callable[[], int],
        full: Callable[[], None],
        context: ssl.SSLContext | None = None,
    ) -> None:
        """`factory` makes a connection's protocol, which calls what it is given once it is among those that `opened` counts.

        `full` hears of one too many. `context`: None: in clear text.
        """
        self._factory, self._most, self._opened, self._full, self._context = factory, most, opened, full, context
        self._listeners: list[socket.socket] = []
        self.greeting = 0  # connections that are not open yet
        self._tasks: set[asyncio.Task[None]] = set()
        self._nagged = float("-inf")

    async def listen(self, host: str, port: int, backlog: int) -> int:
        """The port that it listens on: `port`, or a free one where that is 0. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._listeners = await _bound(host, port)
        for listener in self._listeners:
            listener.listen(backlog)
            self._loop.add_reader(listener, self._accept, listener)
        found: int = self._listeners[0].getsockname()[1]
        return found

    def close(self) -> None:
        """No more connections; what is not open yet will not be."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            self._loop.remove_reader(listener)
            listener.close()
        for task in self._tasks:
            task.cancel()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTED_A_TURN):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in SCARCE:
                    raise
                self._rest(listener, error)
                return
            if self._opened() + self.greeting >= self._most:
                connection.close()
                self._full()
                continue
            self.greeting += 1
            task = self._loop.create_task(self._greet(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _rest(self, listener: socket.socket, error: OSError) -> None:
        """Who waits to be accepted goes on waiting, and the loop is not woken for them all the time."""
        self._loop.remove_reader(listener)
        self._loop.call_later(PAUSE_SECONDS, self._listen_on, listener)
        if self._loop.time() - self._nagged > NAGGED_SECONDS:
            self._nagged = self._loop.time()
            log.warning("no connection can be accepted now: %s; trying again every %g s", error.strerror, PAUSE_SECONDS)

    def _listen_on(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self._loop.add_reader(listener, self._accept, listener)

    async def _greet(self, connection: socket.socket) -> None:
        """Opens the connection, behind its handshake where there is one."""
        greeting = True

        def greeted() -> None:
            nonlocal greeting
            self.greeting -= greeting
            greeting = False

        secure: dict[str, Any] = {}
        if self._context is not None:
            secure |= {
                "ssl": self._context,
                "ssl_handshake_timeout": HANDSHAKE_SECONDS,
                "ssl_shutdown_timeout": GOODBYE_SECONDS,
            }
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(lambda: self._factory(greeted), connection, **secure)
        except OSError:  # the client's own doing; ssl's errors are OSErrors too
            connection.close()
        finally:
            greeted()


async def _bound(host: str, port: int) -> list[socket.socket]:
    """One for each address of the host, all with the same port. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                listener = socket.socket(family, kind, protocol)
            except OSError:  # a family of addresses that this machine does not have
                continue
            sockets.append(listener)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address[0], port, *address[2:]))
            port = listener.getsockname()[1]
    except BaseException:
        for listener in sockets:
            listener.close()
        raise
    return sockets
