"""Connection: uvicorn's, with an end to what a client may keep open."""

import asyncio
from collections.abc import Callable
from typing import Self

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 60.0
"""In which a request must have come whole, and in which a client must take something of its answer."""


class Connection(H11Protocol):
    """What a client does slowly costs a file descriptor for a minute, and nobody else anything."""

    def opening(self, greeted: Callable[[], None]) -> Self:
        """`greeted` is to be called when it is open."""
        self._greeted = greeted
        return self

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._since = self.loop.time()  # when what is awaited was first awaited
        self._deaf_since: float | None = None
        super().connection_made(transport)
        self._greeted()

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:  # a request begins
            self._since = self.loop.time()
        super().data_received(data)

    def pause_writing(self) -> None:
        self._deaf_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._deaf_since = None
        super().resume_writing()

    def look(self, now: float) -> None:
        """Now and then, by the loop's clock: an end to clients that do not send what they began, or do not read."""
        late = self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and now - self._since > REQUEST_SECONDS
        deaf = self._deaf_since is not None and now - self._deaf_since > REQUEST_SECONDS
        if late or deaf:
            self.transport.abort()
