"""Streams: the book of a connection's streams (RFC 9113, section 5): a Call for each that is open."""

import asyncio
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping

import grpc

from statecell_server.access.caller import Caller
from statecell_server.access.tokens import Tokens
from statecell_server.errors import Unauthenticated
from statecell_server.transport.http2 import frames
from statecell_server.transport.http2.call import CALL_WINDOW, Call, Method
from statecell_server.transport.http2.frames import Code, ConnectionBroken, StreamBroken
from statecell_server.transport.http2.headers import OK, HeaderReader, Metadata, Request, not_grpc, trailers
from statecell_server.transport.http2.inflow import WINDOW, Inflow, exhausted
from statecell_server.transport.http2.memory import Held
from statecell_server.transport.http2.messages import Aborted
from statecell_server.transport.http2.outflow import UNSENT, Outflow
from statecell_server.transport.http2.peer import Peer
from statecell_server.transport.http2.token_bucket import TokenBucket
from statecell_server.transport.limits import Limits
from statecell_server.transport.watch import Begun, Over, Watch, printable

MOST_CALLS = 10_000
"""Calls at once on one connection: a client may have a stream for each of its sessions."""
CALL_BYTES = 4 << 10
"""What an open call takes beside its headers and messages."""
TASK_SECONDS = 100e-6
"""What a call costs beyond its reading that is served by a task."""
MESSAGE_SECONDS = 60.0
"""Within which the message of a call that has one must have come."""
MOST_LEFT = 10_000
"""Streams of a connection that we have reset and that are remembered: what was on its way to them is no fault."""

CANCELLED_A_TURN = 64
"""Calls whose client is gone that are cancelled in one turn of the loop: it may have had thousands."""

_GRPC = re.compile(r"application/grpc(?:$|[+; ])")
_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
_UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED.value[0]
_GONE = Aborted(grpc.StatusCode.CANCELLED, "the client is gone")


class Streams:
    """Opens calls, hands them what comes, and sends what they answer. It is the `Link` of its calls."""

    def __init__(
        self,
        handlers: Mapping[str, Method],
        limits: Limits,
        tokens: Tokens,
        calls: dict[int, Call],
        out: Outflow,
        inflow: Inflow,
        held: Held,
        peer: Peer,
        empty: Callable[[], object],
    ) -> None:
        """`handlers`: by path. `held`: counts its calls. `calls`: those that are open, by their streams, which is for the
        streams to change and for the peer to see. `empty` is called when the last call has ended after `leaving` was set."""
        self.calls = calls
        self.leaving = False  # no new calls
        self.watch: Watch | None = None
        self.address = ""  # of the client, for who watches
        self.owed = 0.0  # seconds that calls will take which have begun; whoever reads sets it back
        self._handlers = handlers
        self._limits = limits
        self._tokens = tokens
        self._out = out
        self._in = inflow
        self._held = held
        self._peer = peer
        self._empty = empty
        self._headers = HeaderReader(held)
        self._left: OrderedDict[int, None] = OrderedDict()  # streams that we have reset before the client had sent all
        self._resets = TokenBucket(burst=10_000, rate=1000)

    # From the client

    def data(self, stream: int, flags: int, payload: bytes | memoryview) -> None:
        """DATA. Raises ConnectionBroken, StreamBroken."""
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
        if call.length is not None:
            call.length -= len(payload)
            if call.length < 0 or (call.length and flags & frames.END_STREAM):
                raise StreamBroken(Code.PROTOCOL_ERROR, "another number of bytes than content-length says")
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

    def headers(self, stream: int, flags: int, block: bytes) -> None:
        """Headers are complete: a new call, or the end of one. Raises ConnectionBroken, StreamBroken."""
        ended = bool(flags & frames.END_STREAM)
        call = self.calls.get(stream)
        if call is not None or stream in self._left:
            broken = self._headers.skip(block)
            if call is None or call.half_closed:
                self._after_all(stream, flags, "HEADERS")
            elif broken is not None:
                raise broken
            elif ended and call.length:
                raise StreamBroken(Code.PROTOCOL_ERROR, "fewer bytes than content-length says")
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
        if self.leaving or len(self.calls) >= MOST_CALLS or self._out.unsent > UNSENT:
            self._cast_off(stream, Code.REFUSED_STREAM, ended=ended)
        else:
            self._call(stream, request, ended=ended)

    def _call(self, stream: int, request: Request, *, ended: bool) -> None:
        if ended and request.length:
            raise StreamBroken(Code.PROTOCOL_ERROR, f"content-length is {request.length}, and no data comes")
        method = self._handlers.get(request.path)
        refusal, why, caller = b"", "", self._caller(request)
        if request.size > self._limits.metadata:
            most = f"the most is {self._limits.metadata} (--max-metadata)"
            refusal = trailers(_EXHAUSTED, f"the call's metadata has {request.size} bytes, {most}", alone=True)
            why = "RESOURCE_EXHAUSTED"
        elif request.method != "POST":
            refusal, why = not_grpc(405), "405"
        elif _GRPC.match(request.content_type) is None:
            refusal, why = not_grpc(415, request.content_type), "415"
        elif isinstance(caller, str):
            refusal, why = trailers(_UNAUTHENTICATED, caller, alone=True), "UNAUTHENTICATED"
        elif method is None:
            code = grpc.StatusCode.UNIMPLEMENTED.value[0]
            refusal, why = trailers(code, f"there is no {request.path}", alone=True), "UNIMPLEMENTED"
        elif not self._held.add(CALL_BYTES + request.size):
            self._held.add(-CALL_BYTES - request.size)
            refusal, why = trailers(_EXHAUSTED, str(self._held.memory), alone=True), "RESOURCE_EXHAUSTED"
        over = None if self.watch is None else self._watched(self.watch, request)
        if refusal or method is None or isinstance(caller, str):
            if over is not None:
                over(why)
            self._out.put(frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream, refusal))
            if not ended:
                self._cast_off(stream, Code.NO_ERROR, ended=False)
            return
        call = Call(self, stream, request, method, self._limits.message, caller)
        call.watched = over
        self.calls[stream] = call
        if ended:
            call.half_close()

    def _watched(self, watch: Watch, request: Request) -> Over:
        path = f"{request.method} {request.path}" if request.method != "POST" else request.path
        known = printable(request.request_id), printable(request.traceparent)
        return watch(Begun(printable(path), self.address, *known))

    def _caller(self, request: Request) -> Caller | str:
        """Who calls, or why nobody is let in."""
        try:
            return self._tokens.admit_to(request.path, request.authorization)
        except Unauthenticated as error:
            return str(error)

    def reset(self, stream: int, payload: bytes) -> None:
        """RST_STREAM. Raises ConnectionBroken."""
        self._peer.check_opened(stream, "RST_STREAM")
        if len(payload) != 4:
            raise ConnectionBroken(Code.FRAME_SIZE_ERROR, f"RST_STREAM of {len(payload)} bytes, expected 4")
        if stream in self._left:  # it says that it has heard
            del self._left[stream]
            return
        if not self._resets.spend():
            raise ConnectionBroken(Code.ENHANCE_YOUR_CALM, "calls are opened and reset too often")
        self._drop(stream)

    def break_off(self, stream: int, error: StreamBroken) -> None:
        """The client has broken a rule that costs it the stream. Raises ConnectionBroken."""
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

    def look(self, now: float) -> None:
        """Now and then: calls of one message do not wait for it for ever."""
        late = [c for c in self.calls.values() if not c.half_closed and c.single and now - c.began > MESSAGE_SECONDS]
        for call in late:
            why = f"the call's message did not come within {MESSAGE_SECONDS:g} s"
            call.cancel(Aborted(grpc.StatusCode.DEADLINE_EXCEEDED, why))

    def drop_all(self) -> None:
        """The client is gone, and the connection is closed without being asked for it: it must not be held in a circle."""
        self._empty = bool
        self._out.drop_all()
        calls = deque(self.calls.values())
        self.calls.clear()
        _cancel(calls)

    # From the calls

    def send(self, call: Call, message: bytes) -> None:
        """As Link."""
        if call.id in self.calls and not self._out.send(call, message):
            call.cancel(exhausted(self._held))

    def begun(self) -> None:
        """A task serves a call."""
        self.owed += TASK_SECONDS

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
        self._held.add(-CALL_BYTES - call.headers_size)
        if self.leaving and not self.calls:
            self._empty()


def _cancel(calls: deque[Call]) -> None:
    for _ in range(min(CANCELLED_A_TURN, len(calls))):
        calls.popleft().cancel(_GONE)
    if calls:
        asyncio.get_running_loop().call_soon(_cancel, calls)
