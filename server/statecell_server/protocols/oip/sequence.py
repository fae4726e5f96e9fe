"""Sequence: a sequence id that is in use."""

import asyncio

from statecell_server.errors import InvalidRequest
from statecell_server.protocols.oip.request import SequenceRequest
from statecell_server.sessions.budget import Budget

REMEMBERED_IDS = 16
"""Request ids of a live sequence that are recognised when they come again."""
ENTRY_BYTES = 192
"""What each takes beside its characters."""


class Sequence:
    """Takes one request after the other, in the order of their arrival, and knows those that it has taken."""

    __slots__ = ("_applied", "_budget", "_waiting", "busy", "session_id")

    def __init__(self, session_id: str, budget: Budget) -> None:
        """`session_id`: of the session that is behind it, if there is one. `budget`: of what is remembered."""
        self._budget = budget
        self.session_id = session_id
        self.busy = False  # a request is not answered
        self._waiting: list[asyncio.Future[None]] = []  # those behind it
        self._applied: dict[str, tuple[int, int]] = {}  # by request id: (step_index before it, its content)

    async def wait(self) -> None:
        """Until all requests that came before are answered."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was this one's turn already
                self.leave()
            raise

    def leave(self) -> None:
        """A request is answered: it is the next one's turn."""
        while self._waiting:
            turn = self._waiting.pop(0)
            if not turn.done():
                turn.set_result(None)
                return
        self.busy = False

    def repeated(self, request: SequenceRequest) -> int | None:
        """The step_index of the request that this one repeats, if it does. Raises InvalidRequest."""
        index, content = self._applied.get(request.request_id, (None, 0))
        if index is not None and content != request.content():
            raise InvalidRequest(
                f"request id {request.request_id!r} was used for another step of sequence {request.sequence_id!r}; "
                "give each request its own id, or none",
                field="id",
            )
        return index

    def begin(self, session_id: str) -> None:
        """It has a new session, that has taken nothing."""
        self.session_id = session_id
        self.forget()

    def forget(self) -> None:
        """The requests that were taken."""
        self._budget.used -= sum(map(_cost, self._applied))
        self._applied.clear()

    def remembers(self, request_id: str) -> bool:
        """Whether a request of this id was taken."""
        return request_id in self._applied

    def apply(self, request: SequenceRequest, index: int) -> None:
        """The request was the step at `index`."""
        if request.request_id:
            self.remember(request.request_id, index, request.content())

    def remember(self, request_id: str, index: int, content: int) -> None:
        """The request was the step at `index`."""
        applied = self._applied
        if request_id not in applied:
            self._budget.used += ENTRY_BYTES + len(request_id)
        applied[request_id] = index, content
        if len(applied) > REMEMBERED_IDS:
            oldest = next(iter(applied))
            del applied[oldest]
            self._budget.used -= ENTRY_BYTES + len(oldest)


def _cost(request_id: str) -> int:
    """Bytes that it takes to remember it."""
    return ENTRY_BYTES + len(request_id)
