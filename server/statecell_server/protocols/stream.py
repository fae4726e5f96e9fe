"""MessageStream: what the streams of all protocols here have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol


class Pending(Protocol):
    """A message that was received and is not answered."""

    def cancel(self) -> Any:
        """Nobody waits for the answer any more."""


class MessageStream(ABC):
    """An Exchange: messages begin in the order in which they come, and each is answered when it can be."""

    def __init__(self) -> None:
        self._pending: set[Pending] = set()

    @property
    def open(self) -> int:
        """Messages that were received and are not answered."""
        return len(self._pending)

    def begin(self, answer: Callable[[Any], None], fail: Callable[[BaseException], None]) -> None:
        """`answer` sends a message; `fail` ends the call by an error of ours."""
        self._answer, self._fail = answer, fail

    def receive_bytes(self, message: bytes) -> bool:  # noqa: ARG002
        """Whether the message, as it came, was all that was needed, and is on its way."""
        return False

    @abstractmethod
    def receive(self, message: Any) -> None:
        """The next message: answered at once, or one of `_pending` until it is."""

    def cancel(self) -> None:
        """Nobody waits for the answers any more."""
        for pending in self._pending:
            pending.cancel()
