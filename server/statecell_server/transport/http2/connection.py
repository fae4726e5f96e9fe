"""Connection: one client's HTTP/2, frame by frame (RFC 9113)."""

import asyncio
import logging
import socket
from collections.abc import Collection, Mapping
from typing import cast

from statecell_server.transport.http2 import frames
from statecell_server.transport.http2.busy_poll import BusyPoll
from statecell_server.transport.http2.call import CALL_WINDOW, Call, Method
from statecell_server.transport.http2.frames import (
    FRAME_SIZE,
    HEAD,
    HEAD_SIZE,
    LARGEST_DATA,
    PREFACE,
    Code,
    ConnectionBroken,
    Setting,
    StreamBroken,
)
from statecell_server.transport.http2.headers import LIST_SIZE
from statecell_server.transport.http2.inflow import WINDOW, Inflow
from statecell_server.transport.http2.outflow import Outflow
from statecell_server.transport.http2.peer import Peer
from statecell_server.transport.http2.streams import MOST_CALLS, Streams

log = logging.getLogger(__name__)

LARGE = 4096
"""Bytes of a frame from which on they are looked at where they are: a view costs as much as a copy of so many."""
GREETING_SECONDS = 20.0
"""Within which a client has to begin to speak HTTP/2."""
FAREWELL_SECONDS = 2.0
"""Within which a client has to close a connection that is over."""


class Connection(asyncio.Protocol):
    """Reads frames and hands them on: to its streams, or where they speak of the connection itself, to its peer.

    Belongs to the event loop.
    """

    def __init__(
        self, handlers: Mapping[str, Method], max_message: int, connections: "set[Connection]", poll: BusyPoll
    ) -> None:
        """`handlers`: by path. `connections`: where this one is while it is open."""
        self._handlers = handlers
        self._max_message = max_message
        self._connections = connections
        self._poll = poll
        self._rest = bytearray()  # the beginning of a frame
        self._needed = 0  # bytes that it will have, as far as we know
        self._greeted = self._closed = False
        self._block: tuple[int, int, bytes] | None = None  # stream, flags and what there is of headers that go on

    @property
    def calls(self) -> Collection[Call]:
        """Those that are open."""
        return self._streams.calls.values()

    # From the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self._out = Outflow(self._transport, self._poll)
        calls: dict[int, Call] = {}
        self._peer = Peer(calls, self._out)
        inflow = Inflow(self._out, self._max_message)
        self._streams = Streams(self._handlers, self._max_message, calls, self._out, inflow, self._peer, self._close)
        connected = transport.get_extra_info("socket")
        if connected is not None:  # a client whose machine has gone is found out by the kernel
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._timer = asyncio.get_running_loop().call_later(GREETING_SECONDS, self._transport.abort)
        ours = {
            Setting.MAX_CONCURRENT_STREAMS: MOST_CALLS,
            Setting.INITIAL_WINDOW_SIZE: CALL_WINDOW,
            Setting.MAX_FRAME_SIZE: LARGEST_DATA,
            Setting.MAX_HEADER_LIST_SIZE: LIST_SIZE,
        }
        self._out.put(frames.settings(ours), frames.window_update(0, WINDOW - frames.DEFAULT_WINDOW))

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest.clear()
        try:
            at = self._read_preface(data) if not self._greeted else 0
            if self._greeted:
                at = self._read_frames(data, at)
            if at < len(data):
                self._rest += memoryview(data)[at:]
        except ConnectionBroken as error:
            log.warning("a connection is closed: %s (%s)", error, error.code.name)
            self._leave(error.code, str(error))
            self._streams.drop_all()
            self._close()

    def pause_writing(self) -> None:
        self._out.paused = True

    def resume_writing(self) -> None:
        self._out.resume()

    def eof_received(self) -> None:
        """The client has nothing more to say, or is gone: nobody can be answered who cannot acknowledge."""
        self._streams.drop_all()
        self._close()

    def connection_lost(self, _: Exception | None) -> None:
        self._timer.cancel()
        self._closed = True
        self._connections.discard(self)
        self._streams.drop_all()

    # Frames

    def _read_preface(self, data: bytes) -> int:
        """Where the frames begin."""
        if not PREFACE.startswith(data[: len(PREFACE)]):
            raise ConnectionBroken(Code.PROTOCOL_ERROR, f"the client speaks no HTTP/2: it began with {data[:24]!r}")
        if len(data) < len(PREFACE):
            return 0
        self._greeted = True
        self._timer.cancel()
        return len(PREFACE)

    def _read_frames(self, data: bytes, at: int) -> int:
        """Where the first frame begins that is not complete. The main path. Raises ConnectionBroken."""
        end = len(data)
        while end - at >= HEAD_SIZE:
            head, flags, stream = HEAD.unpack_from(data, at)
            size, kind = head >> 8, head & 0xFF
            if size > FRAME_SIZE and (kind != frames.DATA or size > LARGEST_DATA):
                most = LARGEST_DATA if kind == frames.DATA else FRAME_SIZE
                raise ConnectionBroken(Code.FRAME_SIZE_ERROR, f"a frame of {size} bytes, the most is {most}")
            start, stop = at + HEAD_SIZE, at + HEAD_SIZE + size
            if stop > end:
                self._needed = HEAD_SIZE + size
                break
            stream &= 0x7FFFFFFF
            if self._block is not None and kind != frames.CONTINUATION:
                raise ConnectionBroken(Code.PROTOCOL_ERROR, "headers were not continued")
            try:
                if kind == frames.DATA:
                    self._poll.heard()
                    self._streams.data(stream, flags, data[start:stop] if size < LARGE else memoryview(data)[start:stop])
                elif kind == frames.HEADERS:
                    self._open(stream, flags, data[start:stop])
                elif kind == frames.CONTINUATION:
                    self._continue(stream, flags, data[start:stop])
                elif kind == frames.RST_STREAM:
                    self._streams.reset(stream, data[start:stop])
                else:
                    self._peer.read(kind, stream, flags, data[start:stop])
            except StreamBroken as error:
                self._streams.break_off(stream, error)
            at = stop
        else:
            self._needed = HEAD_SIZE
        return at

    def _open(self, stream: int, flags: int, payload: bytes) -> None:
        """HEADERS."""
        if not stream:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "HEADERS on stream 0")
        payload = frames.unpadded(flags, payload)
        if flags & frames.HAS_PRIORITY:
            if len(payload) < 5:
                raise ConnectionBroken(Code.FRAME_SIZE_ERROR, "HEADERS too short for their priority")
            payload = payload[5:]
        if flags & frames.END_HEADERS:
            self._streams.headers(stream, flags, payload)
        else:
            self._block = (stream, flags, payload)

    def _continue(self, stream: int, flags: int, payload: bytes) -> None:
        """CONTINUATION."""
        if self._block is None or self._block[0] != stream:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "CONTINUATION without headers to continue")
        self._peer.trifle("continuations")
        _, first, block = self._block
        block += payload
        if len(block) > 2 * LIST_SIZE:
            raise ConnectionBroken(Code.ENHANCE_YOUR_CALM, f"headers of more than {LIST_SIZE} bytes")
        self._block = None if flags & frames.END_HEADERS else (stream, first, block)
        if self._block is None:
            self._streams.headers(stream, first, block)

    # The end

    def leave(self) -> None:
        """No new calls; the connection closes when those that there are have ended."""
        if self._closed:
            return
        self._leave(Code.NO_ERROR, "the server is about to stop")
        if not self._streams.calls:
            self._close()

    def _leave(self, code: Code, why: str) -> None:
        self._streams.leaving = True
        self._out.put(frames.goaway(self._peer.last, code, why))

    def _close(self) -> None:
        """Ours is the last word; a client that has not heard it yet would lose it if the connection were closed at once."""
        if self._closed:
            return
        self._closed = True
        self._out.flush()
        if self._transport.is_closing():
            return
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(FAREWELL_SECONDS, self._transport.abort)
        try:
            self._transport.write_eof()
        except OSError:  # the client has reset the connection, and asyncio does not know it yet
            self._transport.abort()
