"""Takeover: durable sessions come from the store, whichever server wrote them."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from statecell.spec import ModelSpec
from statecell.tensor import Array

from statecell_server.batching.lines import Index
from statecell_server.batching.runner import Runner
from statecell_server.durability.record import Record
from statecell_server.durability.store import StateStore, contended
from statecell_server.engine.repository import Repository
from statecell_server.errors import InternalError, SnapshotMismatch, StatecellError, StoreUnavailable
from statecell_server.sessions.session import DURABLE, LAST_INDEX, Session
from statecell_server.sessions.table import Sessions

log = logging.getLogger(__name__)

ROUNDS = 8
"""Times that a record is read, when its session keeps moving on here, before its request is refused."""
Indexes = Sequence[Index]
Errors = Mapping[str, StatecellError]


class Takeover:
    """Loads the sessions that a request needs and this server does not have as they are now.

    A local copy is used without asking only to run the step that it expects: if another server was faster, the write to the
    store finds out. Everything else (a session that is not here, a repeated step, a step_index that does not fit) is decided by
    the record. Requests that wait for the store keep their order, session by session.
    """

    def __init__(
        self, store: StateStore, sessions: Sessions, models: Repository, enter: Callable[[Session, Runner], Session]
    ) -> None:
        """`enter` makes a session known; it raises where there is no room."""
        self.store = store
        self.taken = 0  # sessions that other servers had before
        self._sessions = sessions
        self._models = models
        self._enter = enter
        self._last: dict[str, asyncio.Task[None]] = {}  # by session id: the last request that waits

    def needed(self, session_ids: Sequence[str], step_indexes: Indexes) -> bool:
        """Whether the request has to wait for the store."""
        if self._last and any(i in self._last for i in session_ids):
            return True
        return any(map(self._is_behind, session_ids, step_indexes))

    def _behind(self, session_ids: Sequence[str], step_indexes: Indexes) -> list[str]:
        return [i for i, index in zip(session_ids, step_indexes, strict=True) if self._is_behind(i, index)]

    def _is_behind(self, session_id: str, step_index: Index) -> bool:
        session = self._sessions.known(session_id)
        if session is None:
            return session_id.startswith(DURABLE)
        if not session.durable:
            return False
        if session.stale:
            return True
        claimed = isinstance(step_index, int)
        return claimed and not (step_index == session.step_index or session.pending or session.ahead)

    def request(
        self, session_ids: Sequence[str], step_indexes: Indexes, then: Callable[[Errors], None], *, doubt: bool = False
    ) -> None:
        """Calls `then` when the sessions are as they are in the store, with what went wrong for some of them.

        `doubt`: all are looked up, also those that seem to be as they are there.
        """
        before = [self._last[i] for i in set(session_ids) if i in self._last]
        task = asyncio.get_running_loop().create_task(self._serve(before, session_ids, step_indexes, then, doubt))
        for session_id in session_ids:
            self._last[session_id] = task
        task.add_done_callback(lambda _: self._forget(session_ids, task))

    def _forget(self, session_ids: Iterable[str], task: "asyncio.Task[None]") -> None:
        for session_id in session_ids:
            if self._last.get(session_id) is task:
                del self._last[session_id]

    async def _serve(
        self,
        before: Sequence["asyncio.Task[None]"],
        session_ids: Sequence[str],
        step_indexes: Indexes,
        then: Callable[[Errors], None],
        doubt: bool,
    ) -> None:
        if before:
            await asyncio.wait(before)
        behind = session_ids if doubt else self._behind(session_ids, step_indexes)
        try:
            errors: Errors = await self.fetch(behind)
        except Exception as error:  # whoever waits must hear of it
            log.exception("sessions cannot be loaded")
            errors = dict.fromkeys(behind, StoreUnavailable(f"the session cannot be loaded: {type(error).__name__}: {error}"))
        then(errors)

    async def fetch(self, session_ids: Sequence[str]) -> dict[str, StatecellError]:
        """Brings the sessions to where the store has them. What went wrong, by id."""
        ids = sorted(set(session_ids))
        errors: dict[str, StatecellError] = {}
        for _ in range(ROUNDS):
            if not ids:
                return errors
            try:
                ids = await self._load(ids, errors)
            except StatecellError as error:
                return errors | dict.fromkeys(ids, error.kept())
            except Exception as error:
                log.exception("the store failed")
                return errors | dict.fromkeys(ids, StoreUnavailable(f"the store does not answer: {error!r}"))
        return errors | {session_id: contended(session_id) for session_id in ids}

    async def _load(self, ids: Sequence[str], errors: dict[str, StatecellError]) -> list[str]:
        """One round trip. Gives the sessions that have moved on here meanwhile: what was read may be older than they are."""
        before = [self._fence(session_id) for session_id in ids]
        moved = []
        for session_id, fence, data in zip(ids, before, await self.store.load(ids), strict=True):
            if self._fence(session_id) != fence:
                moved.append(session_id)
                continue
            try:
                if data is None:
                    self._drop(session_id)
                    raise self._sessions.absent(session_id)
                await self._adopt(session_id, Record.decode(data))
            except StatecellError as error:
                errors[session_id] = error.kept()
            except Exception as error:
                log.exception("session %s cannot be loaded", session_id[:16])
                errors[session_id] = InternalError(f"session {session_id} cannot be loaded: {error}")
        return moved

    def _fence(self, session_id: str) -> bytes | None:
        """Of the copy that is here."""
        session = self._sessions.known(session_id)
        return None if session is None else session.fence

    async def record(self, session_id: str) -> Record:
        """The session's record. Raises SessionNotFound, SessionExpired, StoreUnavailable, SnapshotMismatch."""
        (data,) = await self.store.load([session_id])
        if data is None:
            self._drop(session_id)
            raise self._sessions.absent(session_id)
        return Record.decode(data)

    def _drop(self, session_id: str) -> None:
        session = self._sessions.known(session_id)
        if session is not None:
            self._sessions.remove(session)
            self._models.of(session).leave(session, self._sessions.absent(session_id))

    async def _adopt(self, session_id: str, record: Record) -> None:
        """The session as the record has it. Raises SnapshotMismatch, ModelNotFound, StateBudgetExceeded, Draining."""
        session = self._sessions.known(session_id)
        if session is not None and session.fence == record.fence and not session.stale:
            return
        runner = await self._models.holding(record.model, record.version, record.digest)
        states, replied, reply = _content(record, runner)
        session = self._sessions.known(session_id)  # as it is after the wait
        if session is None:
            session = Session(session_id, runner.home, record.batch, durable=True, created=record.created)
            session.replied, session.reply = replied, reply
            _set(session, record, states)
            self._enter(session, runner)
            self.taken += record.owner != self._sessions.mark
            log.debug("took over session %s at step_index %d from %s", session_id[:16], record.step_index, record.owner)
        elif session.fence != record.fence or session.stale:
            runner.abandon(session, contended(session_id))
            runner.release(session)
            runner.sessions.replace_reply(session, replied, reply)
            _set(session, record, states)
            log.debug("session %s was moved on to step_index %d by %s", session_id[:16], record.step_index, record.owner)


def _set(session: Session, record: Record, states: list[Array]) -> None:
    session.load(states)
    session.step_index, session.fence, session.stale = record.step_index, record.fence, False


def _content(record: Record, runner: Runner) -> tuple[list[Array], int, bytes]:
    """The states, the time steps of the last request, and the reply to it. Raises SnapshotMismatch."""
    if record.batch < 1 or not 0 <= record.step_index <= LAST_INDEX or record.reply_start > record.step_index:
        raise SnapshotMismatch(
            f"a session's record has batch {record.batch}, step_index {record.step_index} and the reply to {record.reply_start}"
        )
    states = states_of(record, runner.spec)
    if record.reply_start < 0:
        return states, 0, b""
    outputs = [record.outputs[t.name] for t in runner.spec.outputs]
    (reply,) = runner.replies.cut(outputs, [record.batch])
    return states, record.step_index - record.reply_start, reply


def states_of(record: Record, spec: ModelSpec) -> list[Array]:
    """The record's states in the spec's order. Raises SnapshotMismatch."""
    expected = {s.input: (s.dtype, s.sized(batch=record.batch)) for s in spec.states}
    found = {name: (array.dtype.name, array.shape) for name, array in record.states.items()}
    if found != expected:
        raise SnapshotMismatch(f"a session's record has the states {found}, its model {expected}")
    return [record.states[s.input] for s in spec.states]
