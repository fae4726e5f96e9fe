"""Lifecycle: sessions are created, read, forked, reset and deleted."""

from collections.abc import Mapping

import numpy as np
from statecell.tensor import Array

from statecell_server.access.caller import ANYBODY, Caller, owner_tag
from statecell_server.access.state_key import StateKey
from statecell_server.batching.inputs import check_states
from statecell_server.batching.runner import Runner
from statecell_server.engine.admission import Admission
from statecell_server.engine.repository import Repository
from statecell_server.engine.takeover import Takeover, states_of
from statecell_server.engine.ticket import ROUNDS
from statecell_server.errors import (
    InvalidRequest,
    NotStreamable,
    SessionContended,
    SessionNotFound,
    StatecellError,
    StepOutOfOrder,
)
from statecell_server.sessions.session import DURABLE, Session
from statecell_server.sessions.snapshot import Snapshot
from statecell_server.sessions.table import Sessions

Tensors = Mapping[str, Array]


MOST_FORKS = 1024
"""Sessions that one call makes."""


class Lifecycle:
    """`await lifecycle.create("lstm")`. Belongs to the event loop."""

    def __init__(
        self, sessions: Sessions, models: Repository, admission: Admission, takeover: Takeover | None, state_key: StateKey
    ) -> None:
        """`takeover`: None where there is no store. `state_key`: what snapshots are sealed by."""
        self.state_key = state_key
        self._sessions = sessions
        self._models = models
        self._admission = admission
        self._takeover = takeover

    async def create(
        self,
        model: str,
        version: str = "",
        *,
        batch: int = 1,
        state: Tensors | None = None,
        snapshot: Snapshot | None = None,
        checksum: bytes = b"",
        durable: bool = False,
        session_id: str = "",
        owner: Caller = ANYBODY,
    ) -> Session:
        """A new session from the model's initial state, from `state`, or from `snapshot`.

        `session_id` names it where its client has done so; otherwise it is issued here, and says whose it is.
        """
        await self._models.wake(model, version)
        runner = self._models.get(model, version)
        spec = runner.spec
        if not spec.streamable:
            raise NotStreamable(f"model {model!r} has no sessions: {spec.reason}; call it with Infer", model=model)
        if durable and runner.journal is None:
            raise InvalidRequest(
                "this server has no store, so no session outlives it; start it with --store to have durable sessions",
                field="durable",
            )
        if snapshot is not None:
            snapshot.verify(checksum, runner.name, runner.runtime.digest, self.state_key)
            if state or batch not in (0, 1, snapshot.batch):
                raise InvalidRequest("a snapshot brings its own batch and state; leave out the others", field="snapshot")
            batch, state = snapshot.batch, snapshot.states
        batch = batch or 1
        self._admission.check_room(runner, batch)
        if batch < 1 or (batch > 1 and not spec.has_batch):
            raise InvalidRequest(f"batch is {batch}, expected {'1 or more' if spec.has_batch else '1'}", field="batch")
        if durable and runner.journal is not None:
            runner.journal.check_size(batch)
        name = session_id or self._sessions.issue(durable=durable, tag=owner.tag)
        session = Session(name, runner.home, batch, durable, created=self._sessions.now())
        if state:
            session.load([np.array(a) for a in check_states(spec, state, batch, finite=runner.finite)])
        if snapshot is not None:
            session.step_index = snapshot.step_index
        await self._admission.found([session], runner)
        return session

    def begin(self, runner: Runner, session_id: str) -> Session:
        """As create: one row, in memory, from the model's initial state, for which nothing has to be waited.

        Raises Draining, StateBudgetExceeded.
        """
        return self._admission.enter(Session(session_id, runner.home, created=self._sessions.now()), runner)

    async def attach(self, session_id: str, *, doubt: bool = False) -> Session:
        """The session, brought from the store where it is not here; with `doubt` as it is there now. Raises as submit does."""
        asked = doubt and session_id.startswith(DURABLE)
        if self._takeover is not None and (asked or self._takeover.needed([session_id], [None])):
            absent = await self._takeover.fetch([session_id])
            if absent:
                raise absent.pop(session_id)
        return self._sessions.get(session_id)

    async def snapshot(self, session_id: str) -> Snapshot:
        """The committed state, whatever is in flight. Of a durable session, the one in the store."""
        if self._takeover is not None and self._is_stored(session_id):
            record = await self._takeover.record(session_id)
            return Snapshot(record.model, record.digest, record.batch, record.step_index, record.states)
        session = self._sessions.get(session_id)
        runner = self._models.of(session)
        names = (s.input for s in runner.spec.states)
        states = dict(zip(names, runner.state(session), strict=True))
        return Snapshot(session.model, runner.runtime.digest, session.batch, session.step_index, states)

    def _is_stored(self, session_id: str) -> bool:
        """Whether the store knows better than this server what the session is."""
        session = self._sessions.known(session_id)
        return session_id.startswith(DURABLE) if session is None else session.durable and not session.ahead

    async def fork(self, session_id: str, count: int) -> list[Session]:
        """`count` sessions of the same owner that go on from the committed state. All or none are made."""
        if not 0 <= count <= MOST_FORKS:
            raise InvalidRequest(f"count is {count}, expected 1 to {MOST_FORKS}", field="count")
        if self._takeover is not None and self._is_stored(session_id):
            record = await self._takeover.record(session_id)
            runner = await self._models.holding(record.model, record.version, record.digest)
            loaded = states_of(record, runner.spec)
            forks, tag = [], owner_tag(session_id)
            for _ in range(count or 1):
                fork = Session(self._sessions.issue(durable=True, tag=tag), runner.home, record.batch, durable=True)
                fork.step_index = record.step_index
                fork.load(loaded)
                forks.append(fork)
        else:
            session = self._sessions.get(session_id)
            runner = self._models.of(session)
            tag = owner_tag(session_id)
            forks = [session.fork(self._sessions.issue(durable=session.durable, tag=tag)) for _ in range(count or 1)]
            for _ in forks:
                runner.arena.share(session.slots)
        await self._admission.found(forks, runner)
        return forks

    async def reset(self, session_id: str) -> Session:
        """Back to the model's initial state. Steps in flight are not applied."""
        error: StatecellError | None = None
        for _ in range(ROUNDS):
            if self._takeover is not None and self._is_stored(session_id):
                absent = await self._takeover.fetch([session_id])
                if absent:
                    raise absent.pop(session_id)
            session = self._sessions.get(session_id)
            runner = self._models.of(session)
            error = await runner.journal.restart(session) if session.durable and runner.journal is not None else None
            if error is None:
                reset = StepOutOfOrder(f"session {session_id} was reset", session_id=session_id, expected_step_index=0)
                runner.abandon(session, reset)
                runner.release(session)
                runner.sessions.replace_reply(session, 0, b"")
                session.reset()
                return session
            if not isinstance(error, SessionContended):
                break
        assert error is not None, "a round ends with a return or an error"
        raise error

    async def delete(self, session_id: str) -> None:
        """Steps in flight are not applied."""
        stored = self._takeover is not None and session_id.startswith(DURABLE) and await self._takeover.store.delete(session_id)
        session = self._sessions.known(session_id)
        if session is not None:
            self.drop(session)
        elif not stored:
            raise self._sessions.absent(session_id)

    def drop(self, session: Session) -> None:
        """As delete, of one that is here, and nowhere else."""
        self._sessions.remove(session)
        deleted = SessionNotFound(f"session {session.id} was deleted", session_id=session.id)
        self._models.of(session).leave(session, deleted)
