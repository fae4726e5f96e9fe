"""ReplyCache: the last answers of sequences that are over, in case the request that ended them comes again."""

from collections import OrderedDict

from statecell_server.protocols.oip.request import Answer, Key, SequenceRequest

BYTES = 16 << 20
"""Memory for all of them; the oldest go first."""
ENTRY_BYTES = 256
"""What one takes beside its outputs."""


class ReplyCache:
    """`cache.add(key, request_id, content, answer)`, kept until the sequence begins again or others need the room."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Key, tuple[str, int, Answer]] = OrderedDict()  # request id, its content, its answer
        self._bytes = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._answers

    def add(self, key: Key, request_id: str, content: int, answer: Answer) -> None:
        """The request of this id (none: "", 0) and content has ended its sequence."""
        self.forget(key)
        self._answers[key] = request_id, content, answer
        self._bytes += ENTRY_BYTES + answer.nbytes
        while self._bytes > BYTES:
            self.forget(next(iter(self._answers)))

    def knows(self, key: Key, request_id: str) -> bool:
        """Whether a request of this id has ended the sequence."""
        return bool(request_id) and key in self._answers and self._answers[key][0] == request_id

    def repeated(self, request: SequenceRequest) -> Answer | None:
        """The answer, if the request is the one that has ended the sequence."""
        request_id, content, answer = self._answers.get(request.key, ("", 0, None))
        return answer if request_id and (request_id, content) == (request.request_id, request.content()) else None

    def forget(self, key: Key) -> None:
        """The sequence begins again."""
        old = self._answers.pop(key, None)
        if old is not None:
            self._bytes -= ENTRY_BYTES + old[2].nbytes
