"""Inflow: what a client may send: the windows that we give, and the bytes that wait for whoever is to take them."""

import grpc

from statecell_server.transport.http2 import frames
from statecell_server.transport.http2.call import CALL_WINDOW, Call
from statecell_server.transport.http2.frames import Code, ConnectionBroken
from statecell_server.transport.http2.memory import Held
from statecell_server.transport.http2.messages import Aborted
from statecell_server.transport.http2.outflow import Outflow

WINDOW = 16 << 20
"""Bytes that a client may send on all calls of a connection before they were looked at."""


def exhausted(held: Held) -> Aborted:
    """How a call ends for which there is no room."""
    return Aborted(grpc.StatusCode.RESOURCE_EXHAUSTED, str(held.memory))


class Inflow:
    """Gives a connection's window back as frames come, but no more of it while too much of what came is not taken."""

    def __init__(self, out: Outflow, held: Held, max_message: int) -> None:
        self.window = WINDOW
        self._out = out
        self._held = held
        self._most = 2 * max_message
        self._incomplete = 0  # bytes of messages that are not complete
        self._untaken = 0  # bytes of those that are, and wait in their calls

    def give(self) -> None:
        """Half of the window is used. Raises ConnectionBroken where more than all of it is."""
        if self.window < 0:
            raise ConnectionBroken(Code.FLOW_CONTROL_ERROR, "more data than the connection's window had room for")
        if self._untaken <= self._most:
            self._out.put(frames.window_update(0, WINDOW - self.window))
            self.window = WINDOW

    def grant(self, call: Call) -> None:
        """The call has taken all that came, or a message is on its way that is larger than its window."""
        self._out.put(frames.window_update(call.id, CALL_WINDOW - call.window))
        call.window = CALL_WINDOW

    def keep(self, call: Call, size: int) -> None:
        """The call's incomplete message has so many bytes more (or fewer). Ends the call where all of them have too many."""
        self._incomplete += size
        fits = self._held.add(size)
        if self._incomplete > self._most:
            why = f"this connection's incomplete messages have more than {self._most} bytes (twice --max-message)"
            call.cancel(Aborted(grpc.StatusCode.RESOURCE_EXHAUSTED, why))
        elif size > 0 and not fits:
            call.cancel(exhausted(self._held))

    def wait(self, call: Call, size: int) -> None:
        """So many bytes more wait in the call. Ends it where there is no room for them."""
        call.untaken += size
        self._untaken += size
        if not self._held.add(size):
            call.cancel(exhausted(self._held))

    def taken(self, call: Call) -> None:
        """Nothing waits in the call any more."""
        self._untaken -= call.untaken
        self._held.add(-call.untaken)
        call.untaken = 0
        if self.window < WINDOW // 2:
            self.give()

    def forget(self, call: Call) -> None:
        """It is over."""
        self._incomplete -= call.messages.size
        self._held.add(-call.messages.size)
        self.taken(call)
