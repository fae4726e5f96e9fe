"""Sessions: where the sessions of a server with several workers are, and what is known of them."""

from collections.abc import Sequence

from statecell_server.engine.engine import Engine
from statecell_server.errors import StatecellError
from statecell_server.sessions.owner import owner
from statecell_server.workers.peers import Found, Peers

KNOWN = 100_000
"""Sessions of peers of which is kept what does not change."""


class Sessions:
    """Belongs to the event loop."""

    def __init__(self, engine: Engine, peers: Peers) -> None:
        self.peers = peers
        self.index, self._count = peers.place.index, peers.place.count
        self._engine = engine
        self._found: dict[str, Found] = {}

    def owner(self, session_id: str) -> int:
        """The worker that the session lives in. While that is gone, this one: it says that the session is lost, or, of a
        durable one, goes on with it."""
        index = owner(session_id, self._count)
        return index if index == self.index or self.peers.up(index) else self.index

    async def find(self, ids: Sequence[str], owners: Sequence[int]) -> list[Found | None]:
        """Of each; None: there is no such session. Raises Aborted."""
        found: dict[str, Found | None] = {i: self._found[i] for i in ids if i in self._found}
        for index in set(owners):
            asked = list(dict.fromkeys(i for i, of in zip(ids, owners, strict=True) if of == index and i not in found))
            if not asked:
                continue
            answers = await (self.describe(asked) if index == self.index else self.peers.sessions(index, asked))
            found |= zip(asked, answers, strict=True)
            if len(self._found) > KNOWN:
                self._found.clear()
            if index != self.index:
                self._found |= {i: entry for i, entry in zip(asked, answers, strict=True) if entry is not None}
        return [found[i] for i in ids]

    async def describe(self, ids: Sequence[str]) -> list[Found | None]:
        """Of sessions of this worker."""
        answers: list[Found | None] = []
        for session_id in ids:
            try:
                session = await self._engine.lifecycle.attach(session_id)
            except StatecellError:  # its step will say why
                answers.append(None)
            else:
                answers.append(Found(session.model, session.version, session.batch))
        return answers
