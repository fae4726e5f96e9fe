"""Ended: the last answers of sequences that are over, in case the request that ended them comes again."""

from collections import OrderedDict

from statecell_server.protocols.oip.turn import Answer, Key, Turn

BYTES = 16 << 20
"""Memory for all of them; the oldest go first."""
ENTRY_BYTES = 256
"""What one takes beside its outputs."""


class Ended:
    """`ended.add(turn, answer)`, and `turn.key in ended` until the sequence begins again or others need the room."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Key, tuple[str, int, Answer]] = OrderedDict()  # request id, its content, its answer
        self._bytes = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._answers

    def add(self, turn: Turn, answer: Answer) -> None:
        """The turn has ended its sequence."""
        self.forget(turn.key)
        self._answers[turn.key] = turn.request_id, turn.content() if turn.request_id else 0, answer
        self._bytes += ENTRY_BYTES + answer.nbytes
        while self._bytes > BYTES:
            self.forget(next(iter(self._answers)))

    def repeated(self, turn: Turn) -> Answer | None:
        """The answer, if the turn is the one that has ended the sequence."""
        request_id, content, answer = self._answers.get(turn.key, ("", 0, None))
        return answer if request_id and (request_id, content) == (turn.request_id, turn.content()) else None

    def forget(self, key: Key) -> None:
        """The sequence begins again."""
        old = self._answers.pop(key, None)
        if old is not None:
            self._bytes -= ENTRY_BYTES + old[2].nbytes
