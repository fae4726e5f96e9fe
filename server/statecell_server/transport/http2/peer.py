"""Peer: what a client says about its connection rather than on one of its calls, and how much of that it may."""

from collections.abc import Mapping

from statecell_server.transport.http2 import frames
from statecell_server.transport.http2.call import Call
from statecell_server.transport.http2.frames import FRAME_SIZE, Code, ConnectionBroken, Setting, StreamBroken
from statecell_server.transport.http2.outflow import TURN, Outflow
from statecell_server.transport.http2.token_bucket import TokenBucket

MOST_SETTINGS = 64
"""Entries of one SETTINGS frame: there are some ten kinds, and each counts once."""
CALLS_A_TRIFLE = 64
"""Calls that are looked at for a change of their windows at the cost of one frame."""


class Peer:
    """Reads settings, pings, windows and priorities."""

    def __init__(self, calls: Mapping[int, Call], out: Outflow) -> None:
        self.last = 0  # the highest stream that it has opened
        self._highest = 0  # that any call was granted, since that was last looked at
        self._calls = calls
        self._out = out
        # Frames that cost us more than they cost a client, and that nobody needs this often.
        self._trifles = TokenBucket(burst=10_000, rate=1000)

    def trifle(self, what: str, cost: int = 1) -> None:
        """It did something that it may do, but not all the time. Raises ConnectionBroken."""
        if not self._trifles.spend(cost):
            raise ConnectionBroken(Code.ENHANCE_YOUR_CALM, f"too many {what}")

    def check_opened(self, stream: int, what: str) -> None:
        """Raises ConnectionBroken."""
        if not stream or stream > self.last or not stream % 2:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, f"{what} on stream {stream}, which was never opened")

    def read(self, kind: int, stream: int, flags: int, payload: bytes) -> None:
        """A frame. Raises ConnectionBroken, StreamBroken."""
        match kind:
            case frames.WINDOW_UPDATE:
                self._window_update(stream, payload)
            case frames.PING:
                self._ping(stream, flags, payload)
            case frames.SETTINGS:
                self._settings(stream, flags, payload)
            case frames.PRIORITY:
                self._priority(stream, payload)
            case frames.GOAWAY:  # it opens no more calls; those that it has go on
                self._check_whole(stream, "GOAWAY")
            case frames.PUSH_PROMISE:
                raise ConnectionBroken(Code.PROTOCOL_ERROR, "a client cannot push")
            case _:
                self.trifle("frames of unknown types")

    def _window_update(self, stream: int, payload: bytes) -> None:
        self._check_size("WINDOW_UPDATE", payload, 4)
        increment = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if not stream:
            if not increment:
                raise ConnectionBroken(Code.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            self._out.widen(None, increment)
            return
        self.check_opened(stream, "WINDOW_UPDATE")
        if not increment:
            raise StreamBroken(Code.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        call = self._calls.get(stream)
        if call is None:
            return
        if (window := self._out.call_window + call.granted + increment) > frames.LARGEST_WINDOW:
            raise StreamBroken(Code.FLOW_CONTROL_ERROR, f"the stream's window would be {window}")
        self._out.widen(call, increment)
        self._highest = max(self._highest, call.granted)

    def _ping(self, stream: int, flags: int, payload: bytes) -> None:
        self._check_whole(stream, "PING")
        self._check_size("PING", payload, 8)
        self.trifle("pings")
        if not flags & frames.ACK:
            self._out.put(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _settings(self, stream: int, flags: int, payload: bytes) -> None:
        self._check_whole(stream, "SETTINGS")
        if flags & frames.ACK:
            self._check_size("an acknowledgement of SETTINGS", payload, 0)
            self.trifle("acknowledgements of SETTINGS")
            return
        if len(payload) > MOST_SETTINGS * 6:
            came = f"{len(payload) // 6} entries"
            raise ConnectionBroken(Code.ENHANCE_YOUR_CALM, f"SETTINGS of {came}, the most is {MOST_SETTINGS}")
        self.trifle("settings")
        window = self._out.call_window
        for key, value in frames.read_settings(payload):
            if key == Setting.INITIAL_WINDOW_SIZE:
                if value > frames.LARGEST_WINDOW:
                    raise ConnectionBroken(Code.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE is {value}")
                window = value
            elif key == Setting.ENABLE_PUSH and value > 1:
                raise ConnectionBroken(Code.PROTOCOL_ERROR, f"ENABLE_PUSH is {value}, expected 0 or 1")
            elif key == Setting.MAX_FRAME_SIZE:
                if not FRAME_SIZE <= value < 1 << 24:
                    raise ConnectionBroken(Code.PROTOCOL_ERROR, f"MAX_FRAME_SIZE is {value}")
                self._out.frame_size = min(value, TURN)
        if window != self._out.call_window:
            self._change_windows(window)
        self._out.put(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def _change_windows(self, window: int) -> None:
        what = "settings that change the windows of many calls"
        self.trifle(what, self._out.blocked // CALLS_A_TRIFLE)
        if window + self._highest > frames.LARGEST_WINDOW:  # of a call that may have sent much since, or be over
            self.trifle(what, len(self._calls) // CALLS_A_TRIFLE)
            self._highest = max((call.granted for call in self._calls.values()), default=0)
            if window + self._highest > frames.LARGEST_WINDOW:
                why = f"INITIAL_WINDOW_SIZE of {window} makes the window of a stream {window + self._highest}"
                raise ConnectionBroken(Code.FLOW_CONTROL_ERROR, why)
        self._out.change_windows(window)

    def _priority(self, stream: int, payload: bytes) -> None:
        """Nothing has any."""
        if not stream:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "PRIORITY on stream 0")
        self.trifle("priorities")
        self._check_size("PRIORITY", payload, 5)

    @staticmethod
    def _check_whole(stream: int, what: str) -> None:
        if stream:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, f"{what} on stream {stream}, expected 0")

    @staticmethod
    def _check_size(what: str, payload: bytes, size: int) -> None:
        if len(payload) != size:
            raise ConnectionBroken(Code.FRAME_SIZE_ERROR, f"{what} of {len(payload)} bytes, expected {size}")
