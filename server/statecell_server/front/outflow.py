"""Outflow: what a connection sends, in one write a turn of the event loop, within the windows that the client gives."""

import asyncio

from statecell_server.front import frames
from statecell_server.front.call import Call
from statecell_server.front.frames import DATA, FRAME_SIZE, HEAD, MESSAGE_HEAD, PREFIX, Code, ConnectionBroken
from statecell_server.front.headers import RESPONSE

TURN = 256 << 10
"""Bytes of waiting messages that are sent in one turn of the loop: a large one must not keep the others from theirs."""
BUFFERED = 1 << 20
"""Bytes in the transport's buffer from which on messages wait, so that a client that does not read costs no more."""


class Outflow:
    """Sends what there is room for at once and the rest when there is, every call in its turn."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.window = frames.DEFAULT_WINDOW  # bytes that we may send on all streams
        self.paused = False  # the transport has enough
        self._transport = transport
        transport.set_write_buffer_limits(high=BUFFERED)
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes | memoryview] = []
        self._stuck: dict[int, Call] = {}  # calls with unsent messages and a window
        self._pumping = False

    def put(self, *parts: bytes | memoryview) -> None:
        """Frames that no window holds back."""
        if not self._out:
            self._loop.call_soon(self.flush)
        self._out += parts

    def send(self, call: Call, message: bytes) -> None:
        """A message, behind the call's earlier ones."""
        if not call.responded:
            call.responded = True
            self.put(frames.frame(frames.HEADERS, frames.END_HEADERS, call.id, RESPONSE))
        size = PREFIX.size + len(message)
        if size <= FRAME_SIZE and size <= self.window and size <= call.peer_window and not call.unsent and not self.paused:
            self.window -= size
            call.peer_window -= size
            self.put(MESSAGE_HEAD.pack(size << 8 | DATA, 0, call.id, 0, len(message)), message)
        else:
            call.unsent.append(memoryview(PREFIX.pack(0, len(message))))
            if message:
                call.unsent.append(memoryview(message))
            self._wait(call)

    def end(self, call: Call, block: bytes) -> bool:
        """The call's trailers, behind its messages; whether they are on their way already."""
        if call.unsent:
            call.trailers = block
            return False
        flags = frames.END_HEADERS | frames.END_STREAM
        self.put(frames.frame(frames.HEADERS, flags, call.id, block))
        return True

    def widen(self, call: Call | None, increment: int) -> None:
        """The client takes so many bytes more, on one call or on all. Raises ConnectionBroken."""
        if call is not None:
            call.peer_window += increment
            if call.unsent:
                self._wait(call)
        else:
            self.window += increment
            if self.window > frames.LARGEST_WINDOW:
                raise ConnectionBroken(Code.FLOW_CONTROL_ERROR, f"the connection's window would be {self.window}")
            self._pump_soon()

    def resume(self) -> None:
        """The transport has room again."""
        self.paused = False
        self._pump_soon()

    def forget(self, call: Call) -> None:
        """Nothing more is to be sent on it."""
        self._stuck.pop(call.id, None)

    def flush(self) -> None:
        """To the transport, now."""
        out, self._out = self._out, []
        if out and not self._transport.is_closing():
            self._transport.writelines(out)

    def _wait(self, call: Call) -> None:
        self._stuck[call.id] = call
        self._pump_soon()

    def _pump_soon(self) -> None:
        if self._stuck and not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        left = TURN
        while self._stuck and self.window > 0 and left > 0 and not self.paused:
            for call in list(self._stuck.values()):
                left -= self._send_frame(call)
        if left <= 0:
            self._pump_soon()

    def _send_frame(self, call: Call) -> int:
        """The bytes sent; a call that can send no more is taken out."""
        room, parts = min(FRAME_SIZE, self.window, call.peer_window), []
        size = 0
        while call.unsent and size < room:
            piece = call.unsent.popleft()
            if len(piece) > room - size:
                call.unsent.appendleft(piece[room - size :])
                piece = piece[: room - size]
            parts.append(piece)
            size += len(piece)
        if size:
            self.window -= size
            call.peer_window -= size
            self.put(HEAD.pack(size << 8 | DATA, 0, call.id), *parts)
        if not call.unsent or call.peer_window <= 0:
            self.forget(call)
        if size and not call.unsent:
            if call.trailers:
                self.end(call, call.trailers)
            call.sent()
        return size
