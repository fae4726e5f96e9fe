"""Exchange: a call with many messages in flight, whatever carries it."""

from collections.abc import Callable
from typing import Any, Protocol

WINDOW = 256
"""Messages of one call that are read and not answered, or answered and not sent; beyond it the client's writes wait."""


class Exchange(Protocol):
    """A call with many messages in flight, each answered when it can be."""

    @property
    def open(self) -> int:
        """Messages that were received and are not answered."""

    def begin(self, answer: Callable[[Any], None], fail: Callable[[BaseException], None]) -> None:
        """`answer` sends a message; `fail` ends the call by an error of ours."""

    def receive(self, message: Any) -> None:
        """The next message. It may be answered at once."""

    def cancel(self) -> None:
        """Nobody waits for the answers any more."""


class Carrier(Protocol):
    """A call that can carry an Exchange."""

    async def exchange(self, exchange: Exchange) -> None:
        """Passes messages on as they come, until all are there and all are answered."""

    def drain(self) -> None:
        """No more reading: the exchange is over when what it has received is answered."""
