"""Outflow: what a connection sends, in one write a turn of the event loop, within the windows that the client gives."""

import asyncio
from collections import OrderedDict

from statecell_server.transport.http2 import frames
from statecell_server.transport.http2.busy_poll import BusyPoll
from statecell_server.transport.http2.call import Call
from statecell_server.transport.http2.frames import DATA, FRAME_SIZE, HEAD, MESSAGE_HEAD, PREFIX, Code, ConnectionBroken
from statecell_server.transport.http2.headers import RESPONSE
from statecell_server.transport.http2.memory import OWN, Held

TURN = 256 << 10
"""Bytes of large messages that are sent in one turn of the loop: they must not keep the others from theirs."""
FRAME_COST = 128
"""What a frame counts for beside its bytes: two thousand of one byte are a turn's."""
PIECE = 64 << 10
"""The same, of one call before it is another's turn."""
BUFFERED = 256 << 10
"""Bytes in the transport's buffer from which on messages wait, so that a client that does not read costs no more."""
UNREAD = 4 << 20
"""The same, from which on nothing is read of such a client: what is not messages waits for no window."""
UNSENT = 256 << 20
"""Bytes of a connection's answers that wait for their client, from which on it may begin no more calls."""


class Outflow:
    """Sends what there is room for at once and the rest when there is, every call in its turn."""

    def __init__(self, transport: asyncio.Transport, poll: BusyPoll, held: Held) -> None:
        self.window = frames.DEFAULT_WINDOW  # bytes that we may send on all streams
        self.call_window = frames.DEFAULT_WINDOW  # the same on each, beyond what its call was granted
        self.frame_size = FRAME_SIZE  # bytes of a DATA frame that the client takes, as far as we want to send them
        self.paused = False  # the transport has enough
        self.unsent = 0  # bytes that wait in the calls
        self._transport = transport
        self._poll = poll
        self._held = held
        self._buffered = 0  # bytes in the transport's buffer when it was last looked at
        transport.set_write_buffer_limits(high=BUFFERED)
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes | memoryview] = []
        self._stuck: OrderedDict[int, Call] = OrderedDict()  # calls with unsent messages, which may have a window
        self._blocked: dict[int, Call] = {}  # those that have none
        self._left = TURN  # bytes of large messages that may be sent in this turn
        self._pumping = False
        self._deaf: set[str] = set()  # why nothing is read

    def put(self, *parts: bytes | memoryview) -> None:
        """Frames that no window holds back."""
        if not self._out:
            self._loop.call_soon(self.flush)
        self._out += parts

    def send(self, call: Call, message: bytes) -> bool:
        """A message, behind the call's earlier ones. Whether there is room for it, where it has to wait."""
        if not call.responded:
            call.responded = True
            self.put(frames.frame(frames.HEADERS, frames.END_HEADERS, call.id, RESPONSE))
        size = PREFIX.size + len(message)
        if (
            size <= self.frame_size
            and size <= self.window
            and size <= self.call_window + call.granted
            and not call.unsent
            and not self.paused
            and (size <= FRAME_SIZE or self._has_turn(size))
        ):
            self.window -= size
            call.granted -= size
            self.put(MESSAGE_HEAD.pack(size << 8 | DATA, 0, call.id, 0, len(message)), message)
            return True
        self.unsent += size
        call.unsent.append(memoryview(PREFIX.pack(0, len(message))))
        if message:
            call.unsent.append(memoryview(message))
        if call.id not in self._blocked:
            self._wait(call)
        return self._held.add(size)

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
            call.granted += increment
            if self._blocked.pop(call.id, None) is not None:
                self._wait(call)
        else:
            self.window += increment
            if self.window > frames.LARGEST_WINDOW:
                raise ConnectionBroken(Code.FLOW_CONTROL_ERROR, f"the connection's window would be {self.window}")
            self._pump_soon()

    @property
    def blocked(self) -> int:
        """Calls with messages that their windows have no room for."""
        return len(self._blocked)

    def change_windows(self, call_window: int) -> None:
        """Of all calls at once: they differ from it by what each was granted. Costs nothing but for those that are blocked."""
        grown, self.call_window = call_window > self.call_window, call_window
        if grown:
            self._stuck.update(self._blocked)
            self._blocked.clear()
            self._pump_soon()

    def resume(self) -> None:
        """The transport has room again."""
        self.paused = False
        self.look()
        self._pump_soon()

    def look(self) -> None:
        """At what the client has not read: where that is too much, or there is no room for it, nothing more is read of it."""
        size = self._transport.get_write_buffer_size()
        fits = self._held.add(size - self._buffered)
        self._buffered = size
        if size > UNREAD or (size > OWN and not fits):
            self.hush("unread")
        elif not self.paused:
            self.hear("unread")

    def hush(self, why: str) -> None:
        """Nothing is read of the client until nobody has a reason any more."""
        if not self._deaf and not self._transport.is_closing():
            self._transport.pause_reading()
        self._deaf.add(why)

    def hear(self, why: str) -> None:
        """This reason is gone."""
        if why in self._deaf:
            self._deaf.discard(why)
            if not self._deaf and not self._transport.is_closing():
                self._transport.resume_reading()

    def forget(self, call: Call) -> None:
        """What is unsent of the call is not to be sent."""
        size = sum(map(len, call.unsent))
        self.unsent -= size
        self._held.add(-size)
        call.unsent.clear()
        self._stuck.pop(call.id, None)
        self._blocked.pop(call.id, None)

    def drop_all(self) -> None:
        """The client is gone: nothing that waits is sent any more."""
        self._stuck.clear()
        self._blocked.clear()

    def flush(self) -> None:
        """To the transport, now."""
        out, self._out, self._left = self._out, [], TURN
        if not out or self._transport.is_closing():
            return
        # Joined: cheaper for small frames, and asyncio's own writelines forgets to pause us before Python 3.14.
        self._transport.write(b"".join(out))
        self._poll.answered()
        if self.paused or self._held.size > OWN:
            self.look()

    def _has_turn(self, size: int) -> bool:
        """Whether a large message can go at once: none waits that it would overtake, and the turn has room for it."""
        if self._stuck or size > self._left:
            return False
        self._left -= size
        return True

    def _wait(self, call: Call) -> None:
        self._stuck[call.id] = call
        self._pump_soon()

    def _pump_soon(self) -> None:
        if self._stuck and not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        while self._stuck and self.window > 0 and self._left > 0 and not self.paused:
            self._left -= FRAME_COST + self._send_frame(next(iter(self._stuck.values())))
        if self._left <= 0:
            self._pump_soon()

    def _send_frame(self, call: Call) -> int:
        """The bytes sent. The call goes behind the others, or out where it can send no more."""
        room, parts = min(self.frame_size, PIECE, self.window, self.call_window + call.granted), []
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
            call.granted -= size
            self.unsent -= size
            self._held.add(-size)
            self.put(HEAD.pack(size << 8 | DATA, 0, call.id), *parts)
        if call.unsent and self.call_window + call.granted > 0:
            self._stuck.move_to_end(call.id)
        else:
            del self._stuck[call.id]
            if call.unsent:
                self._blocked[call.id] = call
        if size and not call.unsent:
            if call.trailers:
                self.end(call, call.trailers)
            call.sent()
        return size
