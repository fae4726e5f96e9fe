"""Exchange: a call with many messages in flight, whatever carries it."""

from collections.abc import Callable
from typing import Any, Protocol

import grpc

from statecell_server.access.caller import Caller

WINDOW = 256
"""Messages of one call that are read and not answered, or answered and not sent; beyond it the client's writes wait."""


class Exchange(Protocol):
    """A call with many messages in flight, each answered when it can be."""

    @property
    def open(self) -> int:
        """Messages that were received and are not answered."""

    def begin(self, answer: Callable[[Any], None], fail: Callable[[BaseException], None]) -> None:
        """`answer` sends a message; `fail` ends the call by an error of ours."""

    def receive_bytes(self, message: bytes) -> bool:
        """The next message as it came; whether that is all that is needed. Asked only by a carrier that sends answers which are
        bytes already as they are."""

    def receive(self, message: Any) -> None:
        """The next message, parsed. It may be answered at once."""

    def cancel(self) -> None:
        """Nobody waits for the answers any more."""


class Direct(Protocol):
    """A unary call that is answered without a task of its own."""

    @property
    def caller(self) -> Caller:
        """Whose call it is."""

    def reply(self, message: bytes) -> None:
        """Ends the call with its answer, serialised."""

    def refuse(self, status: grpc.Status) -> None:
        """Ends the call."""

    def serve(self) -> None:
        """By its servicer's coroutine after all."""

    def when_cancelled(self, cancel: Callable[[], None]) -> None:
        """`cancel` is called where nobody waits for the answer any more."""


DirectHandler = Callable[[bytes, Direct], bool]
"""Takes a unary call's message, serialised, and whether it does: then it answers the call, later or at once."""


class Carrier(Protocol):
    """A call that can carry an Exchange."""

    async def exchange(self, exchange: Exchange) -> None:
        """Passes messages on as they come, until all are there and all are answered."""

    def drain(self) -> None:
        """No more reading: the exchange is over when what it has received is answered."""
