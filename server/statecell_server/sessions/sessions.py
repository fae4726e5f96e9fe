"""Session: one client's recurrence. Sessions: all of them, by id."""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from typing import TYPE_CHECKING

from statecell.tensor import Array

from statecell_server.arena.arena import INITIAL_SLOT
from statecell_server.durability.record import step_index_of
from statecell_server.errors import InvalidRequest, SessionExpired, SessionLost, SessionNotFound, StatecellError, StepOutOfOrder
from statecell_server.sessions.reply import Reply

if TYPE_CHECKING:
    from statecell_server.batching.runner import Runner
    from statecell_server.batching.step import Step

DURABLE = "durable-"
"""How the id of a durable session begins: only those are looked for in the store."""
INITIAL = (INITIAL_SLOT,)
"""The slots of a session of one row that has not stepped yet; times one, it is the same tuple for all of them."""
TOMBSTONES = 100_000
"""Expired ids remembered, so that their owners are told what happened."""


@dataclass(slots=True, eq=False)
class Session:
    """The state is in `slots`; or in `loaded` until the next step brings it into the arena, and then it has no slots."""

    id: str
    runner: "Runner"
    batch: int = 1
    durable: bool = False
    number: int = 0  # in the order of creation; given when the sessions are first listed
    step_index: int = 0
    slots: tuple[int, ...] = ()
    loaded: list[Array] | None = None
    pending: "tuple[Step, ...]" = ()  # in order; only the first may run
    replied: int = 0  # time steps of the last request, if its reply is kept
    reply: bytes = b""  # to it: see Replies
    fence: bytes = b""  # of the record in the store that this copy goes on from
    stale: bool = False  # another server has gone on from that record: this copy must be loaded again
    saving: "asyncio.Task[None] | None" = None  # a write of the committed state, outside of any step
    created: float = field(default_factory=time.time)
    used: float = 0.0

    def __post_init__(self) -> None:
        self.slots = INITIAL * self.batch
        self.used = self.created

    @property
    def model(self) -> str:
        return self.runner.name

    @property
    def version(self) -> str:
        return self.runner.version

    def load(self, states: list[Array]) -> None:
        """The state is outside the arena from now on; what slots it had are the caller's to give back."""
        self.slots, self.loaded = (), states

    def fork(self, session_id: str) -> "Session":
        """A session at the same point, with the same slots: the arena must be told that they are shared."""
        fork = Session(session_id, self.runner, self.batch, self.durable)
        fork.step_index, fork.slots, fork.loaded = self.step_index, self.slots, self.loaded
        return fork

    def reset(self) -> None:
        """After its slots were given back: at the start again."""
        self.step_index, self.slots, self.loaded = 0, INITIAL * self.batch, None
        self.replied, self.reply = 0, b""

    @property
    def last(self) -> Reply | None:
        """The reply to the last request, if it is kept."""
        if not self.replied:
            return None
        outputs = self.runner.replies.open(self.reply, self.replied, self.batch)
        return Reply(self.step_index - self.replied, self.replied, outputs)

    @property
    def next_index(self) -> int:
        """The step_index of the next new step, once all that is in flight has been applied.

        A step that nobody waits for any more, and that is in flight only because it runs right now, will not be.
        """
        for step in reversed(self.pending):
            if step.waiters or step.writing:
                return step.stop_of(self)
        return self.step_index

    @property
    def ahead(self) -> int:
        """Time steps that were acknowledged and are not in the store."""
        return self.step_index - step_index_of(self.fence) if self.fence else 0

    def place(self, step_index: int | None, seq_len: int) -> "Step | Reply | None":
        """Where a step belongs: the pending step that it repeats, the reply that it repeats, or None: at the end of the queue.

        Raises StepOutOfOrder.
        """
        pending = self.pending
        if step_index is None:
            if pending:
                raise StepOutOfOrder(
                    f"session {self.id} has a step in flight; wait for its reply, or send step_index to queue steps",
                    session_id=self.id,
                )
            return None
        expected = self.next_index
        if step_index == expected:
            return None
        for step in pending:
            if (step.start_of(self), step.inputs.seq_len) == (step_index, seq_len):
                return step
        if self.replied == seq_len and step_index == self.step_index - seq_len:
            return self.last
        raise StepOutOfOrder(
            f"session {self.id} is at step_index {expected}, the step of {seq_len} says {step_index}",
            session_id=self.id,
            expected_step_index=expected,
            step_index=step_index,
        )


class Sessions:
    """The table of sessions. Belongs to the event loop."""

    def __init__(self, ttl: float) -> None:
        self._ttl = ttl
        self._sessions: dict[str, Session] = {}
        self._expired: OrderedDict[str, None] = OrderedDict()
        # Ids begin with a mark of this process: one that does not is of a server that is gone.
        self.mark = secrets.token_hex(4)
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

    def issue(self, *, durable: bool) -> str:
        """A new unguessable id: 128 random bits."""
        return f"{DURABLE if durable else self.mark + '-'}{secrets.token_urlsafe(16)}"

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
        if session_id in self._expired:
            return SessionExpired(f"session {session_id} was idle for {self._ttl:g} s and is gone", session_id=session_id)
        mark, dash, rest = session_id.partition("-")
        if dash and len(mark) == 8 and len(rest) == 22 and mark != self.mark:
            return SessionLost(f"session {session_id} was in the memory of a server that has stopped", session_id=session_id)
        if session_id.startswith(DURABLE):
            return SessionNotFound(
                f"there is no session {session_id!r} in the store: it was deleted, or idle for {self._ttl:g} s",
                session_id=session_id,
            )
        return SessionNotFound(f"there is no session {session_id!r}", session_id=session_id)

    def remove(self, session: Session) -> None:
        """It is gone from the table; what it holds elsewhere is the caller's to give back."""
        del self._sessions[session.id]

    def expire(self, now: float) -> list[Session]:
        """Removes the sessions that have been idle for too long, and gives them back."""
        old = [s for s in self._sessions.values() if now - s.used > self._ttl and not s.pending]
        for session in old:
            self.remove(session)
            self._expired[session.id] = None
            if len(self._expired) > TOMBSTONES:
                self._expired.popitem(last=False)
        return old

    def page(self, model: str, size: int, token: str) -> tuple[list[Session], str]:
        """Sessions in the order of their creation, and the token of the next page ("": none). Raises InvalidRequest."""
        if size < 0:
            raise InvalidRequest(f"page_size is {size}, expected 0 or more", field="page_size")
        if token and not token.isdigit():
            raise InvalidRequest(f"page_token is {token!r}, expected what the page before gave", field="page_token")
        after, size = int(token or 0), size or 1000
        for session in self._sessions.values():
            session.number = session.number or next(self._numbers)
        found = (s for s in self._sessions.values() if s.number > after and model in ("", s.model))
        page = list(islice(found, size + 1))
        return page[:size], str(page[size - 1].number) if len(page) > size else ""


class Residents:
    """The sessions of one runner among all of the table. No table of its own: its entry would be 50 bytes a session."""

    def __init__(self, sessions: Sessions, runner: "Runner") -> None:
        self._sessions = sessions
        self._runner = runner
        self._count = 0
        self.rows = 0  # that they hold, in the arena or beside it

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Session]:
        return (session for session in self._sessions if session.runner is self._runner)

    def add(self, session: Session) -> None:
        self._count += 1
        self.rows += session.batch

    def remove(self, session: Session) -> None:
        self._count -= 1
        self.rows -= session.batch
