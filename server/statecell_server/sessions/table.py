"""Sessions: all that this server has, by id."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice

from statecell_server.access.caller import Caller, owner_tag
from statecell_server.errors import InvalidRequest, SessionExpired, SessionLost, SessionNotFound, StatecellError
from statecell_server.sessions.budget import SESSION_BYTES, Budget
from statecell_server.sessions.owner import owner
from statecell_server.sessions.session import DURABLE, Home, Session

TOMBSTONES = 100_000
"""Expired ids remembered, so that their owners are told what happened."""

ANEW = "create it again, from a snapshot if there is one"


class Sessions:
    """The table of sessions. Belongs to the event loop."""

    def __init__(self, ttl: float, budget: Budget, worker: int = 0, workers: int = 1) -> None:
        """`ttl`: seconds for which a store keeps a session; each home has its own for those that are here.

        `worker`: which of `workers` this is; the ids that are issued here name it.
        """
        self.budget = budget
        self._worker, self._workers = worker, workers
        self._ttl = ttl
        self._sessions: dict[str, Session] = {}
        self._expired: OrderedDict[str, float] = OrderedDict()
        # Ids begin with a mark of this process: one that does not is of a server that is gone.
        self.mark = self._own(lambda: secrets.token_hex(4))
        self._numbers = count(1)
        self._now = 0.0

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def now(self) -> float:
        """time.time(), to 10 ms; whoever asks in the meantime gets the same object, for a float of its own takes 32 bytes."""
        now = time.time()
        if not 0 <= now - self._now < 0.01:
            self._now = now
        return self._now

    def issue(self, *, durable: bool, tag: str = "") -> str:
        """A new unguessable id: 128 random bits, and behind them its owner's `tag`."""
        if durable:
            return self._own(lambda: f"{DURABLE}{secrets.token_urlsafe(16)}{tag}")
        return f"{self.mark}-{secrets.token_urlsafe(16)}{tag}"

    def _own(self, make: Callable[[], str]) -> str:
        """The first that names this worker."""
        while owner(made := make(), self._workers) != self._worker:
            pass
        return made

    def add(self, session: Session) -> None:
        self._sessions[session.id] = session

    def known(self, session_id: str) -> Session | None:
        """The session, if it is here."""
        return self._sessions.get(session_id)

    def get(self, session_id: str) -> Session:
        """Raises SessionNotFound, SessionExpired, SessionLost."""
        session = self._sessions.get(session_id)
        if session is None:
            raise self.absent(session_id)
        return session

    def find(self, session_ids: Iterable[str]) -> list[Session] | None:
        """All of them; None where one is not here."""
        try:
            return list(map(self._sessions.__getitem__, session_ids))
        except KeyError:
            return None

    def absent(self, session_id: str) -> StatecellError:
        """Why there is no such session here, nor in the store if it was durable."""
        if (ttl := self._expired.get(session_id)) is not None:
            return SessionExpired(f"session {session_id} was idle for {ttl:g} s and is gone; {ANEW}", session_id=session_id)
        return self._never(session_id)

    def foreign(self, session_id: str) -> StatecellError:
        """What everybody is told of it but its owner: as of an id that never was, for all that is known of those that were."""
        return self._never(session_id)

    def _never(self, session_id: str) -> StatecellError:
        mark, dash, rest = session_id.removesuffix(owner_tag(session_id)).partition("-")
        if dash and len(mark) == 8 and len(rest) == 22 and mark != self.mark:
            return SessionLost(
                f"session {session_id} was in the memory of a server that has stopped; {ANEW}", session_id=session_id
            )
        if session_id.startswith(DURABLE):
            return SessionNotFound(
                f"there is no session {session_id!r} in the store: it was deleted, or idle for {self._ttl:g} s; {ANEW}",
                session_id=session_id,
            )
        return SessionNotFound(
            f"there is no session {session_id!r}: it was deleted, or is of another server", session_id=session_id
        )

    def remove(self, session: Session) -> None:
        """It is gone from the table; what it holds elsewhere is the caller's to give back."""
        del self._sessions[session.id]

    def expire(self, now: float) -> list[Session]:
        """Removes the sessions that have been idle for too long, and gives them back."""
        old = [s for s in self._sessions.values() if now - s.used > s.home.ttl and not s.pending]
        for session in old:
            self.remove(session)
            self._expired[session.id] = session.home.ttl
            if len(self._expired) > TOMBSTONES:
                self._expired.popitem(last=False)
        return old

    def page(self, model: str, size: int, token: str, owner: Caller | None = None) -> tuple[list[Session], str]:
        """Sessions in the order of their creation, and the token of the next page ("": none). `owner`: None: of all.

        Raises InvalidRequest.
        """
        if size < 0:
            raise InvalidRequest(f"page_size is {size}, expected 0 or more", field="page_size")
        if token and not (token.isascii() and token.isdigit() and len(token) < 20):
            raise InvalidRequest(f"page_token is {token[:40]!r}, expected what the page before gave", field="page_token")
        after, size = int(token or 0), min(size or 1000, 10_000)
        for session in self._sessions.values():
            session.number = session.number or next(self._numbers)
        later = (s for s in self._sessions.values() if s.number > after and model in ("", s.model))
        found = later if owner is None else (s for s in later if owner.owns(s.id))
        page = list(islice(found, size + 1))
        return page[:size], str(page[size - 1].number) if len(page) > size else ""


class Residents:
    """The sessions of one model among all of the table. No table of its own: its entry would be 50 bytes a session."""

    def __init__(self, sessions: Sessions, home: Home) -> None:
        self._sessions = sessions
        self._home = home
        self._count = 0
        self.rows = 0  # that they hold, in the arena or beside it
        self.created = self.expired = self.evicted = self.spilled = 0  # so many times, since the model is here

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Session]:
        return (session for session in self._sessions if session.home is self._home)

    def add(self, session: Session) -> None:
        self._count += 1
        self.created += 1
        self.rows += session.batch
        self._sessions.budget.used += SESSION_BYTES + len(session.id) + len(session.reply)

    def remove(self, session: Session) -> None:
        self._count -= 1
        self.rows -= session.batch
        self._sessions.budget.used -= SESSION_BYTES + len(session.id) + len(session.reply)

    def replace_reply(self, session: Session, replied: int, reply: bytes) -> None:
        """`reply` is kept from now on, to a request of `replied` time steps."""
        self._sessions.budget.used += len(reply) - len(session.reply)
        session.replied, session.reply = replied, reply
