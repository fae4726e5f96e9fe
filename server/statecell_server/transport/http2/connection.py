"""Connection: one client's HTTP/2, frame by frame (RFC 9113)."""

import asyncio
import logging
import socket
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, cast

import grpc

from statecell_server.transport.http2 import frames
from statecell_server.transport.http2.allowance import Allowance
from statecell_server.transport.http2.call import CALL_WINDOW, Call
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
from statecell_server.transport.http2.headers import LIST_SIZE, OK, HeaderReader, Metadata, Request, not_grpc, trailers
from statecell_server.transport.http2.inflow import WINDOW, Inflow
from statecell_server.transport.http2.lookout import Lookout
from statecell_server.transport.http2.messages import Aborted
from statecell_server.transport.http2.outflow import UNSENT, Outflow
from statecell_server.transport.http2.peer import Peer

log = logging.getLogger(__name__)

MOST_CALLS = 100_000
"""Calls at once on one connection."""
LARGE = 4096
"""Bytes of a frame from which on they are looked at where they are: a view costs as much as a copy of so many."""
MOST_LEFT = 10_000
"""Streams of a connection that we have reset and that are remembered: what was on its way to them is no fault."""
GREETING_SECONDS = 20.0
"""Within which a client has to begin to speak HTTP/2."""
FAREWELL_SECONDS = 2.0
"""Within which a client has to close a connection that is over."""

_GONE = Aborted(grpc.StatusCode.CANCELLED, "the client is gone")


class Connection(asyncio.Protocol):
    """Reads frames and makes a Call of each stream. Belongs to the event loop."""

    def __init__(self, handlers: Mapping[str, Any], max_message: int, connections: "set[Connection]", lookout: Lookout) -> None:
        """`handlers`: a grpc.RpcMethodHandler for each path. `connections`: where this one is while it is open."""
        self.calls: dict[int, Call] = {}
        self._handlers = handlers
        self._max_message = max_message
        self._connections = connections
        self._lookout = lookout
        self._headers = HeaderReader()
        self._rest = bytearray()  # the beginning of a frame
        self._needed = 0  # bytes that it will have, as far as we know
        self._greeted = self._leaving = self._closed = False
        self._block: tuple[int, int, bytes] | None = None  # stream, flags and what there is of headers that go on
        self._left: OrderedDict[int, None] = OrderedDict()  # streams that we have reset before the client had sent all
        self._resets = Allowance(burst=10_000, rate=1000)

    # From the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self._out = Outflow(self._transport, self._lookout)
        self._in = Inflow(self._out, self._max_message)
        self._peer = Peer(self.calls, self._out)
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
            self._drop_calls()
            self._close()

    def pause_writing(self) -> None:
        self._out.paused = True

    def resume_writing(self) -> None:
        self._out.resume()

    def eof_received(self) -> None:
        """The client has nothing more to say, or is gone: nobody can be answered who cannot acknowledge."""
        self._drop_calls()
        self._close()

    def connection_lost(self, _: Exception | None) -> None:
        self._timer.cancel()
        self._closed = True
        self._connections.discard(self)
        self._drop_calls()

    def _drop_calls(self) -> None:
        calls = list(self.calls.values())
        self.calls.clear()
        for call in calls:
            call.cancel(_GONE)

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
                    self._data(stream, flags, data[start:stop] if size < LARGE else memoryview(data)[start:stop])
                elif kind == frames.HEADERS:
                    self._open(stream, flags, data[start:stop])
                elif kind == frames.CONTINUATION:
                    self._continue(stream, flags, data[start:stop])
                elif kind == frames.RST_STREAM:
                    self._reset(stream, data[start:stop])
                else:
                    self._peer.read(kind, stream, flags, data[start:stop])
            except StreamBroken as error:
                self._break(stream, error)
            at = stop
        else:
            self._needed = HEAD_SIZE
        return at

    def _data(self, stream: int, flags: int, payload: bytes | memoryview) -> None:
        self._lookout.heard()
        size = len(payload)
        self._in.window -= size
        if self._in.window < WINDOW // 2:
            self._in.give()
        if flags & frames.PADDED:
            payload = frames.unpadded(flags, bytes(payload))
        call = self.calls.get(stream)
        if not payload and not flags & frames.END_STREAM:
            self._peer.trifle("empty data")
        if call is None or call.half_closed:
            self._after_all(stream, flags, "DATA")
            return
        call.window -= size
        if call.window < 0:
            raise StreamBroken(Code.FLOW_CONTROL_ERROR, "more data than the stream's window had room for")
        if payload:
            before = call.messages.size
            call.feed(payload)
            if call.messages.size != before:
                self._in.keep(call, call.messages.size - before)
        if flags & frames.END_STREAM:
            call.half_close()
        elif call.window < CALL_WINDOW // 2:
            self._grant(call)

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
            self._begin(stream, flags, payload)
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
            self._begin(stream, first, block)

    def _begin(self, stream: int, flags: int, block: bytes) -> None:
        """Headers are complete: a new call, or the end of one."""
        ended = bool(flags & frames.END_STREAM)
        call = self.calls.get(stream)
        if call is not None or stream in self._left:
            self._headers.skip(block)
            if call is None or call.half_closed:
                self._after_all(stream, flags, "HEADERS")
            elif ended:
                call.half_close()
            else:
                raise StreamBroken(Code.PROTOCOL_ERROR, "trailers that do not end the stream")
            return
        if stream <= self._peer.last:
            raise ConnectionBroken(Code.STREAM_CLOSED, f"headers on stream {stream}, which is closed")
        if not stream % 2:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, f"a client opened stream {stream}, which only a server may")
        self._peer.last = stream
        request = self._headers.read(block)
        if self._leaving or len(self.calls) >= MOST_CALLS or self._out.unsent > UNSENT:
            self._cast_off(stream, Code.REFUSED_STREAM, ended=ended)
        else:
            self._call(stream, request, ended=ended)

    def _call(self, stream: int, request: Request, *, ended: bool) -> None:
        handler = self._handlers.get(request.path)
        refusal = b""
        if request.method != "POST":
            refusal = not_grpc(405)
        elif not request.content_type.startswith("application/grpc"):
            refusal = not_grpc(415)
        elif handler is None:
            code = grpc.StatusCode.UNIMPLEMENTED.value[0]
            refusal = trailers(code, f"there is no {request.path}", alone=True)
        if refusal:
            self._out.put(frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream, refusal))
            if not ended:
                self._cast_off(stream, Code.NO_ERROR, ended=False)
            return
        call = Call(self, stream, request, handler, self._max_message, self._peer.call_window)
        self.calls[stream] = call
        if ended:
            call.half_close()

    def _reset(self, stream: int, payload: bytes) -> None:
        """RST_STREAM."""
        self._peer.check_opened(stream, "RST_STREAM")
        if len(payload) != 4:
            raise ConnectionBroken(Code.FRAME_SIZE_ERROR, f"RST_STREAM of {len(payload)} bytes, expected 4")
        if stream in self._left:  # it says that it has heard
            del self._left[stream]
            return
        if not self._resets.spend():
            raise ConnectionBroken(Code.ENHANCE_YOUR_CALM, "calls are opened and reset too often")
        self._drop(stream)

    def _break(self, stream: int, error: StreamBroken) -> None:
        self._peer.trifle(f"broken streams ({error})")
        self._abandon(stream, error.code)

    def _abandon(self, stream: int, code: Code) -> None:
        call = self.calls.get(stream)
        self._cast_off(stream, code, ended=code is Code.STREAM_CLOSED if call is None else call.half_closed)
        self._drop(stream)

    def _drop(self, stream: int) -> None:
        call = self.calls.pop(stream, None)
        if call is not None:
            self._forget(call)
            call.cancel(_GONE)

    def _cast_off(self, stream: int, code: Code, *, ended: bool) -> None:
        """We want no more of a stream; what the client has sent before it hears of that is no fault of its."""
        self._out.put(frames.reset(stream, code))
        if not ended:
            self._left[stream] = None
            if len(self._left) > MOST_LEFT:
                self._left.popitem(last=False)

    def _after_all(self, stream: int, flags: int, what: str) -> None:
        """A frame on a stream whose client had sent all, or that is over."""
        self._peer.check_opened(stream, what)
        if stream not in self._left:
            raise StreamBroken(Code.STREAM_CLOSED, f"{what} after the stream's end")
        if flags & frames.END_STREAM:
            del self._left[stream]

    # From the calls

    def send(self, call: Call, message: bytes) -> None:
        """One message of an answer."""
        if call.id in self.calls:
            self._out.send(call, message)

    def wait(self, call: Call, size: int) -> None:
        """So many bytes of messages wait in the call for whoever is to take them."""
        self._in.wait(call, size)

    def taken(self, call: Call) -> None:
        """None wait any more: the client may send more."""
        if call.untaken:
            self._in.taken(call)
        if call.window < CALL_WINDOW // 2:
            self._grant(call)

    def _grant(self, call: Call) -> None:
        if call.reading and call.id in self.calls:
            self._in.grant(call)

    def end(self, call: Call, code: int, message: str, metadata: Metadata) -> None:
        """The call is over; its trailers follow its messages."""
        if call.id not in self.calls:
            return
        self._in.taken(call)
        fine = call.responded and not code and not metadata
        block = OK if fine else trailers(code, message, metadata, alone=not call.responded)
        if self._out.end(call, block):
            self.ended(call)

    def cut(self, call: Call) -> None:
        """What is unsent of the call is not to be sent."""
        self._out.forget(call)

    def give_up(self, call: Call) -> None:
        """The call is over, but the client does not take what is unsent of it."""
        if call.id in self.calls:
            self._abandon(call.id, Code.CANCEL)

    def ended(self, call: Call) -> None:
        """All of the call was sent."""
        del self.calls[call.id]
        if not call.half_closed:
            self._cast_off(call.id, Code.NO_ERROR, ended=False)
        self._forget(call)

    def _forget(self, call: Call) -> None:
        self._in.forget(call)
        self._out.forget(call)
        if self._leaving and not self.calls:
            self._close()

    # The end

    def leave(self) -> None:
        """No new calls; the connection closes when those that there are have ended."""
        if self._closed:
            return
        self._leave(Code.NO_ERROR, "the server is about to stop")
        if not self.calls:
            self._close()

    def _leave(self, code: Code, why: str) -> None:
        self._leaving = True
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
