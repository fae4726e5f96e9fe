"""Connection: one client's HTTP/2, frame by frame (RFC 9113)."""

import asyncio
import logging
import socket
from collections.abc import Mapping
from typing import Any, cast

import grpc

from statecell_server.front import frames
from statecell_server.front.allowance import Allowance
from statecell_server.front.call import Call
from statecell_server.front.frames import FRAME_SIZE, HEAD, HEAD_SIZE, PREFACE, Code, ConnectionBroken, Setting, StreamBroken
from statecell_server.front.headers import LIST_SIZE, OK, HeaderReader, Metadata, Request, not_grpc, trailers
from statecell_server.front.messages import Aborted, Messages
from statecell_server.front.outflow import Outflow

log = logging.getLogger(__name__)

CALL_WINDOW = 1 << 20
"""Bytes that a client may send on one call before they were taken in."""
WINDOW = 16 << 20
"""The same for all calls of a connection."""
MOST_CALLS = 100_000
"""Calls at once on one connection."""
GREETING_SECONDS = 20.0
"""Within which a client has to begin to speak HTTP/2."""
FAREWELL_SECONDS = 2.0
"""Within which a client has to close a connection that is over."""

_GONE = Aborted(grpc.StatusCode.CANCELLED, "the client is gone")


class Connection(asyncio.Protocol):
    """Reads frames, keeps the books of the windows, and makes a Call of each stream. Belongs to the event loop."""

    def __init__(self, handlers: Mapping[str, Any], max_message: int, connections: "set[Connection]") -> None:
        """`handlers`: a grpc.RpcMethodHandler for each path. `connections`: where this one is while it is open."""
        self.calls: dict[int, Call] = {}
        self._handlers = handlers
        self._max_message = max_message
        self._connections = connections
        self._headers = HeaderReader()
        self._rest = b""  # the beginning of a frame
        self._greeted = self._leaving = self._closed = False
        self._last = 0  # the highest stream that the client has opened
        self._window = WINDOW
        self._call_window = frames.DEFAULT_WINDOW  # that a new call has towards the client
        self._held = 0  # bytes of messages that are not complete
        self._block: tuple[int, int, bytes] | None = None  # stream, flags and what there is of headers that go on
        # Frames that cost us more than they cost a client, and that nobody needs this often.
        self._resets = Allowance(burst=10_000, rate=1000)
        self._trifles = Allowance(burst=10_000, rate=1000)

    # From the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self._out = Outflow(self._transport)
        connected = transport.get_extra_info("socket")
        if connected is not None:  # a client whose machine has gone is found out by the kernel
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._timer = asyncio.get_running_loop().call_later(GREETING_SECONDS, self._transport.abort)
        ours = {
            Setting.MAX_CONCURRENT_STREAMS: MOST_CALLS,
            Setting.INITIAL_WINDOW_SIZE: CALL_WINDOW,
            Setting.MAX_HEADER_LIST_SIZE: LIST_SIZE,
        }
        self._out.put(frames.settings(ours), frames.window_update(0, WINDOW - frames.DEFAULT_WINDOW))

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        if self._rest:
            data, self._rest = self._rest + data, b""
        try:
            at = self._read_preface(data) if not self._greeted else 0
            self._rest = data[self._read_frames(data, at) :] if self._greeted else data
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

    def connection_lost(self, _: Exception | None) -> None:
        self._timer.cancel()
        self._closed = True
        self._connections.discard(self)
        self._drop_calls()

    def _drop_calls(self) -> None:
        calls, self.calls = self.calls, {}
        for call in calls.values():
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
            if size > FRAME_SIZE:
                raise ConnectionBroken(Code.FRAME_SIZE_ERROR, f"a frame of {size} bytes, the most is {FRAME_SIZE}")
            start, stop = at + HEAD_SIZE, at + HEAD_SIZE + size
            if stop > end:
                break
            stream &= 0x7FFFFFFF
            if self._block is not None and kind != frames.CONTINUATION:
                raise ConnectionBroken(Code.PROTOCOL_ERROR, "headers were not continued")
            try:
                if kind == frames.DATA:
                    self._data(stream, flags, data[start:stop])
                elif kind < len(_READERS):
                    _READERS[kind](self, stream, flags, data[start:stop])
                else:
                    self._trifle("frames of unknown types")
            except StreamBroken as error:
                self._break(stream, error)
            at = stop
        return at

    def _data(self, stream: int, flags: int, payload: bytes) -> None:
        size = len(payload)
        self._window -= size
        if self._window < WINDOW // 2:
            if self._window < 0:
                raise ConnectionBroken(Code.FLOW_CONTROL_ERROR, "more data than the connection's window had room for")
            self._out.put(frames.window_update(0, WINDOW - self._window))
            self._window = WINDOW
        if flags & frames.PADDED:
            payload = frames.unpadded(flags, payload)
        call = self.calls.get(stream)
        if call is None or call.half_closed:
            self._check_opened(stream, "DATA")
            raise StreamBroken(Code.STREAM_CLOSED, "data after the stream's end")
        call.window -= size
        if call.window < 0:
            raise StreamBroken(Code.FLOW_CONTROL_ERROR, "more data than the stream's window had room for")
        if payload:
            before = call.messages.size
            call.feed(payload)
            self._held += call.messages.size - before
            if self._held > 2 * self._max_message:
                call.cancel(Aborted(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many incomplete messages on one connection"))
        elif not flags & frames.END_STREAM:
            self._trifle("empty data")
        if flags & frames.END_STREAM:
            call.half_close()
        else:
            self.grant(call)

    def grant(self, call: Call) -> None:
        """Lets the client send more where the call has taken in what it sent."""
        if call.window < CALL_WINDOW // 2 and call.reading and call.id in self.calls:
            self._out.put(frames.window_update(call.id, CALL_WINDOW - call.window))
            call.window = CALL_WINDOW

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
        if not payload:
            self._trifle("empty continuations")
        _, first, block = self._block
        block += payload
        if len(block) > 2 * LIST_SIZE:
            raise ConnectionBroken(Code.ENHANCE_YOUR_CALM, f"headers of more than {LIST_SIZE} bytes")
        self._block = None if flags & frames.END_HEADERS else (stream, first, block)
        if self._block is None:
            self._begin(stream, first, block)

    def _begin(self, stream: int, flags: int, block: bytes) -> None:
        """Headers are complete: a new call, or the end of one."""
        call = self.calls.get(stream)
        if call is not None:
            self._headers.skip(block)
            if call.half_closed:
                raise StreamBroken(Code.STREAM_CLOSED, "headers after the stream's end")
            if not flags & frames.END_STREAM:
                raise StreamBroken(Code.PROTOCOL_ERROR, "trailers that do not end the stream")
            call.half_close()
            return
        if stream <= self._last:
            raise ConnectionBroken(Code.STREAM_CLOSED, f"headers on stream {stream}, which is closed")
        if not stream % 2:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, f"a client opened stream {stream}, which only a server may")
        self._last = stream
        request = self._headers.read(block)
        if self._leaving or len(self.calls) >= MOST_CALLS:
            self._out.put(frames.reset(stream, Code.REFUSED_STREAM))
            return
        self._call(stream, request, ended=bool(flags & frames.END_STREAM))

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
                self._out.put(frames.reset(stream, Code.NO_ERROR))
            return
        call = Call(self, stream, request, handler, Messages(self._max_message, request.encoding))
        call.window, call.peer_window = CALL_WINDOW, self._call_window
        self.calls[stream] = call
        if ended:
            call.half_close()

    def _priority(self, stream: int, _: int, payload: bytes) -> None:
        if not stream:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "PRIORITY on stream 0")
        self._trifle("priorities")
        if len(payload) != 5:
            raise StreamBroken(Code.FRAME_SIZE_ERROR, f"PRIORITY of {len(payload)} bytes, expected 5")

    def _reset(self, stream: int, _: int, payload: bytes) -> None:
        """RST_STREAM."""
        self._check_opened(stream, "RST_STREAM")
        if len(payload) != 4:
            raise ConnectionBroken(Code.FRAME_SIZE_ERROR, f"RST_STREAM of {len(payload)} bytes, expected 4")
        if not self._resets.spend():
            raise ConnectionBroken(Code.ENHANCE_YOUR_CALM, "calls are opened and reset too often")
        call = self.calls.pop(stream, None)
        if call is not None:
            self._forget(call)
            call.cancel(_GONE)

    def _settings(self, stream: int, flags: int, payload: bytes) -> None:
        if stream:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, f"SETTINGS on stream {stream}")
        if flags & frames.ACK:
            if payload:
                raise ConnectionBroken(Code.FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS with settings")
            return
        self._trifle("settings")
        for key, value in frames.read_settings(payload):
            if key == Setting.INITIAL_WINDOW_SIZE:
                if value > frames.LARGEST_WINDOW:
                    raise ConnectionBroken(Code.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE is {value}")
                for call in self.calls.values():
                    self._widen(call, value - self._call_window)
                self._call_window = value
            elif key == Setting.ENABLE_PUSH and value > 1:
                raise ConnectionBroken(Code.PROTOCOL_ERROR, f"ENABLE_PUSH is {value}, expected 0 or 1")
            elif key == Setting.MAX_FRAME_SIZE and not FRAME_SIZE <= value < 1 << 24:
                raise ConnectionBroken(Code.PROTOCOL_ERROR, f"MAX_FRAME_SIZE is {value}")
        self._out.put(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def _push(self, *_: object) -> None:
        raise ConnectionBroken(Code.PROTOCOL_ERROR, "a client cannot push")

    def _ping(self, stream: int, flags: int, payload: bytes) -> None:
        if stream:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, f"PING on stream {stream}")
        if len(payload) != 8:
            raise ConnectionBroken(Code.FRAME_SIZE_ERROR, f"PING of {len(payload)} bytes, expected 8")
        if not flags & frames.ACK:
            self._trifle("pings")
            self._out.put(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _goaway(self, stream: int, *_: object) -> None:
        """The client opens no more calls; those that it has go on."""
        if stream:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, f"GOAWAY on stream {stream}")

    def _window_update(self, stream: int, _: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionBroken(Code.FRAME_SIZE_ERROR, f"WINDOW_UPDATE of {len(payload)} bytes, expected 4")
        increment = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if not stream:
            if not increment:
                raise ConnectionBroken(Code.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            self._out.widen(None, increment)
            return
        self._check_opened(stream, "WINDOW_UPDATE")
        call = self.calls.get(stream)
        if not increment:
            raise StreamBroken(Code.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        if call is not None:
            self._widen(call, increment)

    def _widen(self, call: Call, increment: int) -> None:
        if call.peer_window + increment > frames.LARGEST_WINDOW:
            raise StreamBroken(Code.FLOW_CONTROL_ERROR, f"the stream's window would be {call.peer_window + increment}")
        self._out.widen(call, increment)

    def _check_opened(self, stream: int, what: str) -> None:
        if not stream or stream > self._last or not stream % 2:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, f"{what} on stream {stream}, which is not open")

    def _trifle(self, what: str) -> None:
        if not self._trifles.spend():
            raise ConnectionBroken(Code.ENHANCE_YOUR_CALM, f"too many {what}")

    def _break(self, stream: int, error: StreamBroken) -> None:
        self._trifle(f"broken streams ({error})")
        self._out.put(frames.reset(stream, error.code))
        call = self.calls.pop(stream, None)
        if call is not None:
            self._forget(call)
            call.cancel(_GONE)

    # From the calls

    def send(self, call: Call, message: bytes) -> None:
        """One message of an answer."""
        if call.id in self.calls:
            self._out.send(call, message)

    def end(self, call: Call, code: int, message: str, metadata: Metadata) -> None:
        """The call is over; its trailers follow its messages."""
        if call.id not in self.calls:
            return
        fine = call.responded and not code and not metadata
        block = OK if fine else trailers(code, message, metadata, alone=not call.responded)
        if self._out.end(call, block):
            self.ended(call)

    def ended(self, call: Call) -> None:
        """All of the call was sent."""
        del self.calls[call.id]
        if not call.half_closed:
            self._out.put(frames.reset(call.id, Code.NO_ERROR))
        self._forget(call)

    def _forget(self, call: Call) -> None:
        self._held -= call.messages.size
        self._out.forget(call)
        if self._leaving and not self.calls:
            self._close()

    # The end

    def leave(self) -> None:
        """No new calls; the connection closes when those that there are have ended."""
        self._leave(Code.NO_ERROR, "the server is about to stop")
        if not self.calls:
            self._close()

    def _leave(self, code: Code, why: str) -> None:
        self._leaving = True
        self._out.put(frames.goaway(self._last, code, why))

    def _close(self) -> None:
        """Ours is the last word; a client that has not heard it yet would lose it if the connection were closed at once."""
        if self._closed:
            return
        self._closed = True
        self._out.flush()
        if not self._transport.is_closing():
            self._transport.write_eof()
            self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(FAREWELL_SECONDS, self._transport.abort)


_READERS = (
    Connection._data,
    Connection._open,
    Connection._priority,
    Connection._reset,
    Connection._settings,
    Connection._push,
    Connection._ping,
    Connection._goaway,
    Connection._window_update,
    Connection._continue,
)
