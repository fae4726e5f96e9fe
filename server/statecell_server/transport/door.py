"""Door: accepts connections, and counts each from then on, its TLS handshake included."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 20.0
"""Within which a client has to end its TLS handshake."""
FAREWELL_SECONDS = 2.0
"""Within which a client has to say farewell in TLS."""
ACCEPTS = 10
"""Connections accepted in one turn of the event loop: a flood of them leaves turns to those that there are."""
PAUSE_SECONDS = 0.5
"""Without accepting, where the system has no descriptor or memory for one more."""
QUIET_SECONDS = 60.0
"""Between two lines in the log about connections that are not served."""


class Door:
    """`await door.listen(host, port, most)`; then each connection has a protocol of `make`, and `most` are there at once.

    Belongs to the event loop. A protocol takes itself out of `arriving` in its connection_made.
    """

    def __init__(
        self,
        make: Callable[[], asyncio.Protocol],
        there: Callable[[], int],
        limit: str,
        secure: ssl.SSLContext | None,
    ) -> None:
        """`there`: how many connections have arrived and are open. `limit`: what the log calls `most`. `secure`: for TLS."""
        self.arriving: set[asyncio.BaseProtocol] = set()  # accepted, their handshake has not ended
        self._make = make
        self._there = there
        self._limit = limit
        self._tls: dict[str, Any] = {}
        if secure is not None:
            self._tls |= {"ssl": secure, "ssl_handshake_timeout": HANDSHAKE_SECONDS}
            self._tls |= {"ssl_shutdown_timeout": FAREWELL_SECONDS}
        self._listeners: list[socket.socket] = []
        self._resuming: dict[socket.socket, asyncio.TimerHandle] = {}
        self._tasks: dict[asyncio.Task[None], socket.socket] = {}
        self._said = -QUIET_SECONDS

    async def listen(self, host: str, port: int, most: int, backlog: int) -> int:
        """The port that it listens on: `port`, or a free one where that is 0. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._most = most
        self._listeners = await _listening(host, port, backlog)
        for listener in self._listeners:
            self._loop.add_reader(listener, self._accept, listener)
        found: int = self._listeners[0].getsockname()[1]
        return found

    @property
    def open(self) -> int:
        """Connections, arriving or there."""
        return len(self.arriving) + self._there()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS):
            try:
                accepted, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._say("no connection can be accepted: %s; the next try is in %s s", error.strerror, PAUSE_SECONDS)
                self._loop.remove_reader(listener)
                self._resuming[listener] = self._loop.call_later(PAUSE_SECONDS, self._resume, listener)
                return
            if self.open >= self._most:
                self._say("%d connections are open, more are closed at once (%s)", self._most, self._limit)
                accepted.close()
                continue
            accepted.setblocking(False)
            protocol = self._make()
            self.arriving.add(protocol)
            task = self._loop.create_task(self._arrive(accepted, protocol))
            self._tasks[task] = accepted
            task.add_done_callback(self._tasks.pop)

    def _resume(self, listener: socket.socket) -> None:
        del self._resuming[listener]
        self._loop.add_reader(listener, self._accept, listener)

    async def _arrive(self, accepted: socket.socket, protocol: asyncio.Protocol) -> None:
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(lambda: protocol, accepted, **self._tls)
        except OSError as error:  # its client broke off, spoke no TLS, showed no certificate or took too long
            log.debug("a connection did not come about: %s", error)
            if not self._tls:
                accepted.close()
        finally:
            self.arriving.discard(protocol)

    def _say(self, line: str, *values: object) -> None:
        now = self._loop.time()
        if now - self._said >= QUIET_SECONDS:
            self._said = now
            log.warning(line, *values)

    def close(self) -> None:
        """No more connections; those that are arriving are cut off, those that are there go on."""
        for timer in self._resuming.values():
            timer.cancel()
        self._resuming.clear()
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            listener.close()
        self._listeners = []
        for task, accepted in self._tasks.items():
            if not task.done() and accepted.fileno() >= 0:
                try:
                    accepted.shutdown(socket.SHUT_RDWR)  # which ends the handshake
                except OSError as error:
                    log.debug("a connection that was arriving has gone: %s", error)

    async def wait_closed(self) -> None:
        """Until none arrives any more. After `close`."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=FAREWELL_SECONDS)


async def _listening(host: str, port: int, backlog: int) -> list[socket.socket]:
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
            listener.listen(backlog)
            port = listener.getsockname()[1]
    except BaseException:
        for listener in sockets:
            listener.close()
        raise
    return sockets
