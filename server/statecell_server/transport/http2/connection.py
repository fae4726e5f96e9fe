"""Connection: one client's HTTP/2, frame by frame (RFC 9113)."""

import asyncio
import socket
import time
from collections.abc import Callable, Collection
from typing import cast

from statecell_server.transport.http2 import frames
from statecell_server.transport.http2.call import CALL_WINDOW, Call
from statecell_server.transport.http2.frames import (
    HEAD,
    HEAD_SIZE,
    LARGEST_DATA,
    PREFACE,
    Code,
    ConnectionBroken,
    Setting,
    StreamBroken,
)
from statecell_server.transport.http2.headers import LARGEST_BLOCK
from statecell_server.transport.http2.inflow import WINDOW, Inflow
from statecell_server.transport.http2.memory import OWN, Held
from statecell_server.transport.http2.outflow import Outflow
from statecell_server.transport.http2.peer import Peer
from statecell_server.transport.http2.shared import Shared
from statecell_server.transport.http2.streams import MOST_CALLS, Streams
from statecell_server.transport.http2.turns import CALM, FRAMES
from statecell_server.transport.watch import named

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

    def __init__(self, shared: Shared, connections: "set[Connection]", opened: Callable[[], object] = lambda: None) -> None:
        """`connections`: where this one is while it is open; `opened` hears that it is there."""
        self._shared = shared
        self._limits = shared.limits
        self._connections = connections
        self._opened = opened
        self._held = Held(shared.memory)
        self._kept = 0  # bytes of incomplete frames and headers, as they were counted last
        self._rest = bytearray()  # the beginning of a frame
        self._needed = 0  # bytes that it will have, as far as we know
        self._greeted = self._closed = self._waiting = False
        self._busy_until = 0.0  # it has sent more than its share: until then it waits for its turn
        self.reads = 0
        self._idle_since = self._partial_since = time.monotonic()
        self._partial: object = None  # what there was of a frame or of headers then
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags and what there is of headers that go on

    @property
    def calls(self) -> Collection[Call]:
        """Those that are open."""
        return self._streams.calls.values()

    # From the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self._opened()
        self._opened = bool  # which holds the doorway's coroutine
        self._out = Outflow(self._transport, self._shared.poll, self._held)
        calls: dict[int, Call] = {}
        self._peer = Peer(calls, self._out)
        inflow = Inflow(self._out, self._held, self._limits.message)
        handlers = self._shared.handlers
        self._streams = Streams(
            handlers, self._limits, self._shared.tokens, calls, self._out, inflow, self._held, self._peer, self._close
        )
        if (watch := self._shared.watch) is not None:
            self._streams.watch, self._streams.address = watch, named(transport.get_extra_info("peername"))
        connected = transport.get_extra_info("socket")
        if connected is not None:  # a client whose machine has gone is found out by the kernel
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._timer = asyncio.get_running_loop().call_later(GREETING_SECONDS, self._transport.abort)
        ours = {
            Setting.MAX_CONCURRENT_STREAMS: MOST_CALLS,
            Setting.INITIAL_WINDOW_SIZE: CALL_WINDOW,
            Setting.MAX_FRAME_SIZE: LARGEST_DATA,
            Setting.MAX_HEADER_LIST_SIZE: self._limits.metadata,
        }
        self._out.put(frames.settings(ours), frames.window_update(0, WINDOW - frames.DEFAULT_WINDOW))

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed or self._waiting:
                if not self._counted():
                    self._transport.abort()
                return
            data = bytes(self._rest)
            self._rest.clear()
        if self._busy_until and time.perf_counter() < self._busy_until:
            self._rest += data
            self._wait()
        else:
            self._busy_until = 0.0
            self._read(data)

    def read_on(self) -> None:
        """As turns.Reader."""
        self._waiting = False
        if self._closed:
            return
        if len(self._rest) >= self._needed:
            data = bytes(self._rest)
            self._rest.clear()
            self._read(data)
        if not self._waiting:
            self._out.hear("share")

    def _read(self, data: bytes) -> None:
        """A share of a turn."""
        began = time.perf_counter()
        share = self._shared.turns.share(self, began)
        self.reads += 1
        self._streams.owed = 0.0
        try:
            at = self._read_preface(data) if not self._greeted else 0
            if self._greeted:
                at = self._read_frames(data, at, began + share)
            if at < len(data):
                self._rest += memoryview(data)[at:]
            if (self._rest or self._block is not None or self._kept) and not self._counted():
                raise ConnectionBroken(Code.ENHANCE_YOUR_CALM, str(self._shared.memory))
        except ConnectionBroken as error:
            self._shared.complaints.about(error)
            self._leave(error.code, str(error))
            self._streams.drop_all()
            self._close()
            return
        now = time.perf_counter()
        if now - began + self._streams.owed > share / 2:
            self._busy_until = now + CALM
            self._wait()

    def _wait(self) -> None:
        """For its turn."""
        self._waiting = True
        self._out.hush("share")  # what else there is to be read, uvloop would read in this turn
        self._shared.turns.wait(self)

    def _counted(self) -> bool:
        """Counts what is not read yet; whether there is room for it."""
        kept, self._kept = self._kept, len(self._rest) + (len(self._block[2]) if self._block is not None else 0)
        return self._held.add(self._kept - kept) or self._kept <= OWN

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
        self._held.drop()

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

    def _read_frames(self, data: bytes, at: int, until: float) -> int:
        """Where the first frame begins that is not complete, or that has to wait. The main path. Raises ConnectionBroken."""
        end, count = len(data), 0
        while end - at >= HEAD_SIZE:
            if count >= FRAMES:
                if time.perf_counter() + self._streams.owed > until:
                    self._needed = 0
                    break
                count = 0
            head, flags, stream = HEAD.unpack_from(data, at)
            size, kind = head >> 8, head & 0xFF
            if size > LARGEST_DATA:
                raise ConnectionBroken(Code.FRAME_SIZE_ERROR, f"a frame of {size} bytes, the most is {LARGEST_DATA}")
            start, stop = at + HEAD_SIZE, at + HEAD_SIZE + size
            if stop > end:
                self._needed = HEAD_SIZE + size
                break
            stream &= 0x7FFFFFFF
            count += 1 if kind == frames.DATA and size < LARGE else FRAMES
            if self._block is not None and kind != frames.CONTINUATION:
                raise ConnectionBroken(Code.PROTOCOL_ERROR, "headers were not continued")
            try:
                if kind == frames.DATA:
                    self._shared.poll.heard()
                    self._streams.data(stream, flags, data[start:stop] if size < LARGE else memoryview(data)[start:stop])
                else:
                    self._read_other(kind, stream, flags, data[start:stop])
            except StreamBroken as error:
                self._streams.break_off(stream, error)
            at = stop
        else:
            self._needed = HEAD_SIZE
        return at

    def _read_other(self, kind: int, stream: int, flags: int, payload: bytes) -> None:
        """A frame without data. Raises ConnectionBroken, StreamBroken."""
        if kind == frames.HEADERS:
            self._open(stream, flags, payload)
        elif kind == frames.CONTINUATION:
            self._continue(stream, flags, payload)
        elif kind == frames.RST_STREAM:
            self._streams.reset(stream, payload)
        else:
            self._peer.read(kind, stream, flags, payload)

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
            self._block = (stream, flags, bytearray(payload))

    def _continue(self, stream: int, flags: int, payload: bytes) -> None:
        """CONTINUATION."""
        if self._block is None or self._block[0] != stream:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "CONTINUATION without headers to continue")
        self._peer.trifle("continuations")
        _, first, block = self._block
        block += payload
        if len(block) > LARGEST_BLOCK:
            raise ConnectionBroken(Code.ENHANCE_YOUR_CALM, f"headers of more than {LARGEST_BLOCK} bytes")
        if flags & frames.END_HEADERS:
            self._block = None
            self._streams.headers(stream, first, bytes(block))

    # The end

    def look(self, now: float) -> None:
        """Now and then: a connection that nobody uses, or a client that does not say what it began to, goes."""
        if self._closed or not self._greeted:
            return
        if self._streams.calls:
            self._idle_since = now
        elif now - self._idle_since > self._limits.idle_seconds:
            self.leave()
            return
        partial = self._block[0] if self._block is not None else self.reads if self._rest and not self._waiting else None
        if partial is None or partial != self._partial:
            self._partial, self._partial_since = partial, now
        elif now - self._partial_since > GREETING_SECONDS:
            self._transport.abort()
            return
        self._out.look()
        self._streams.look(now)

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
        if not self._transport.can_write_eof():  # TLS has no such half of an end
            self._transport.close()
            return
        try:
            self._transport.write_eof()
        except OSError:  # the client has reset the connection, and asyncio does not know it yet
            self._transport.abort()
