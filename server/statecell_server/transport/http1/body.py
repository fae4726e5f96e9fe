"""The body of a request: so much of it at most, and counted with what all connections keep."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive

from statecell_server.transport.http2.memory import Held, Memory


class Gone(Exception):
    """The client has closed the connection: nobody is to be answered."""


class TooLarge(Exception):
    """The client's fault: the request has more bytes than --max-message."""


class NoRoom(Exception):
    """Nobody's fault: connections keep as much as --connection-memory lets them. The request may be sent again."""


@asynccontextmanager
async def body_of(receive: Receive, most: int, memory: Memory) -> AsyncIterator[bytes]:
    """`async with body_of(receive, 64 << 20, memory) as body:` counts until the end of the block. Raises the above."""
    held, parts, size = Held(memory), [], 0
    try:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            part = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(part)
            if size > most:
                raise TooLarge(f"the request has more than {most} bytes (--max-message)")
            if not held.add(len(part)):
                raise NoRoom(str(memory))
            parts.append(part)
        yield b"".join(parts)
    finally:
        held.drop()
