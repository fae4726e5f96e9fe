"""FaultProxy: a TCP proxy that delays, stalls, deafens, resets and cuts, as networks do."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes a close a reset."""


class FaultProxy:
    """`with FaultProxy(port) as proxy:` bytes to 127.0.0.1:proxy.port go to 127.0.0.1:port and back, until told otherwise.

    Faults hold for all connections, open ones and new ones, until `mend`. All methods may be called from any thread.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._delay = 0.0
        self._deaf = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Of the store behind it."""
        return f"valkey://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self._thread.start()
        self._flowing = self._do(self._event())
        self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def delay(self, seconds: float) -> None:
        """Every piece, in either direction, arrives this much later."""
        self._delay = seconds

    def stall(self) -> None:
        """Connections stay, and are made, and nothing passes."""
        self._call(self._flowing.clear)

    def deafen(self) -> None:
        """What comes back from the target is thrown away; what goes there passes."""
        self._deaf = True

    def reset(self) -> None:
        """The connections that there are end with a reset; new ones are fine."""
        self._call(self._reset)

    def cut(self) -> None:
        """Connections are reset and new ones refused."""
        self._do(self._close())

    def mend(self) -> None:
        """As at the beginning. What was held back while stalled passes now: late, as in a real network."""
        self._delay, self._deaf = 0.0, False
        self._call(self._flowing.set)
        if self._server is None:
            self._do(self._listen())

    # In the proxy's own thread

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _call(self, function: Callable[[], None]) -> None:
        async def call() -> None:
            function()

        self._do(call())

    async def _event(self) -> asyncio.Event:
        event = asyncio.Event()
        event.set()
        return event

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._reset()
        await asyncio.sleep(0)

    def _reset(self) -> None:
        for writer in self._writers:
            peer = writer.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
        self._writers.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there, onward = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            self._writers.discard(writer)
            writer.transport.abort()
            return
        self._writers.add(onward)
        await asyncio.gather(self._pump(reader, onward), self._pump(there, writer, back=True))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool = False) -> None:
        try:
            while piece := await reader.read(1 << 16):
                if self._delay:
                    await asyncio.sleep(self._delay)
                await self._flowing.wait()
                if not (back and self._deaf):
                    writer.write(piece)
                    await writer.drain()
        except OSError:
            pass  # one side was reset: the other one is closed below
        finally:
            self._writers.discard(writer)
            writer.close()
