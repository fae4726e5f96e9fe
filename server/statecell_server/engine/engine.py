"""Engine: everything that a client can ask for. Knows neither protobuf nor gRPC."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from statecell.tensor import Array

from statecell_server.batching.inputs import check_states, split_states
from statecell_server.batching.journal import Journal
from statecell_server.batching.runner import Runner
from statecell_server.config import Config
from statecell_server.durability.store import StateStore
from statecell_server.engine.admission import Admission
from statecell_server.engine.intake import Intake
from statecell_server.engine.repository import Repository
from statecell_server.engine.takeover import Takeover, states_of
from statecell_server.engine.ticket import ROUNDS, Ticket
from statecell_server.errors import (
    Draining,
    InvalidRequest,
    NotStreamable,
    SessionContended,
    SessionNotFound,
    StatecellError,
    StepOutOfOrder,
)
from statecell_server.sessions.sessions import DURABLE, Session, Sessions
from statecell_server.sessions.snapshot import Snapshot

log = logging.getLogger(__name__)

Tensors = Mapping[str, Array]

IDLE_SECONDS = 1.0
"""After which an idle session that is ahead of the store is brought there."""


class Engine:
    """Models, sessions and steps. All methods belong to the event loop."""

    def __init__(
        self,
        config: Config,
        store: StateStore | None = None,
        changed: Callable[[], None] = lambda: None,
        lost: Callable[[str], None] = log.critical,
    ) -> None:
        """Loads the models. `changed` is called when there are others, `lost`, by any thread, when a device breaks.

        Raises runtime.LoadError.
        """
        self.sessions = Sessions(config.session_ttl)
        self.models = Repository(config, store, self.sessions, lost)
        self._handed_over = False
        self._config = config
        self._changed = changed
        self._admission = Admission(self.sessions)
        self._takeover = Takeover(store, self.sessions, self.models, self._admission.enter) if store is not None else None
        self._intake = Intake(self.sessions, self._takeover)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        for runner in self.models:
            runner.start()
        self._tasks.append(asyncio.create_task(self._sweep()))
        if self._config.poll_models:
            self._tasks.append(asyncio.create_task(self._poll()))

    async def drain(self) -> None:
        """No new sessions from now on. Durable ones are brought to the store, and when it has them, sent to other servers."""
        self._admission.closed = True
        for runner in self.models:
            if runner.journal is not None:
                runner.journal.every = 1
        await asyncio.gather(*{s.saving for s in self.sessions if s.saving is not None})
        saved = await asyncio.gather(*self._save(s for s in self.sessions if s.ahead), return_exceptions=True)
        for error in saved:
            if error is not None:  # their states cannot be read: the store has them as of their last record
                log.error("durable sessions go on from their last records: %s", error)
        self._handed_over = True

    async def stop(self) -> None:
        """After the last call was answered."""
        for task in self._tasks:
            task.cancel()
        for runner in self.models:
            runner.stop()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1)
            now = time.time()
            for session in self.sessions.expire(now):
                session.runner.leave(session, self.sessions.absent(session.id))
            if self._config.save_every > 1:
                self._save(s for s in self.sessions if s.ahead and not s.pending and now - s.used > IDLE_SECONDS)
            if self._takeover is not None and self._takeover.taken:
                log.info("took over %d sessions from other servers", self._takeover.taken)
                self._takeover.taken = 0

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._config.poll_models)
            if await self.models.refresh(self._users):
                self._changed()

    def _save(self, sessions: Iterable[Session]) -> "list[asyncio.Task[None]]":
        """Writes sessions that are ahead of the store to it, one round trip a model."""
        groups: dict[Journal, list[Session]] = {}
        for session in sessions:
            journal = session.runner.journal
            if journal is not None and session.saving is None:
                groups.setdefault(journal, []).append(session)
        return [journal.start_saving(group) for journal, group in groups.items()]

    @property
    def draining(self) -> bool:
        """Whether the server is about to stop."""
        return self._admission.closed

    @staticmethod
    def _users(runner: Runner) -> int:
        return runner.scheduler.waiting + len(runner.sessions)

    async def load(self, model: str) -> None:
        """Takes in the model's versions that are in the folder. Raises ModelNotFound, ModelRefused."""
        try:
            await self.models.load(model)
        finally:
            self._changed()

    async def unload(self, model: str) -> None:
        """Raises ModelNotFound, ModelInUse."""
        await self.models.unload(model, self._users)
        self._changed()

    # Steps

    def submit(
        self, session_ids: Sequence[str], tensors: Tensors, step_indexes: Sequence[int | None], done: Callable[[Ticket], None]
    ) -> Ticket:
        """One request for the sessions, their rows stacked in `tensors`; `done` gets the ticket when it can be answered.

        Raises what is wrong with the request as a whole; what is wrong with one session is in the ticket's errors.
        """
        if self._handed_over and any(i.startswith(DURABLE) for i in session_ids):
            raise Draining("the server is about to stop; another one with the same store goes on with its durable sessions")
        return self._intake.submit(session_ids, tensors, step_indexes, done)

    async def step(self, session_id: str, tensors: Tensors, step_index: int | None) -> tuple[dict[str, Array], int]:
        """Advances one session: (outputs by name, its step_index after the step)."""
        ticket = await self._answer(lambda done: self.submit([session_id], tensors, [step_index], done))
        _, outputs, indexes = ticket.outcome()
        return dict(zip(ticket.runner.output_names, outputs, strict=True)), indexes[0]

    async def infer(self, model: str, version: str, tensors: Tensors) -> dict[str, Array]:
        """One stateless call: the outputs, then the final states, by name."""
        runner = self.models.get(model, version)
        given, states = split_states(runner.spec, tensors)
        inputs = runner.check(given, None)
        session = Session("", runner, inputs.rows)
        if states:
            session.load(check_states(runner.spec, states, inputs.rows))

        def submit(done: Callable[[Ticket], None]) -> Ticket:
            return self._intake.place_alone(runner, session, inputs, done)

        try:
            ticket = await self._answer(submit)
            outputs = dict(zip(runner.output_names, ticket.outcome()[1], strict=True))
            return outputs | dict(zip((s.output for s in runner.spec.states), runner.state(session), strict=True))
        finally:
            runner.release(session)

    @staticmethod
    async def _answer(submit: Callable[[Callable[[Ticket], None]], Ticket]) -> Ticket:
        """Waits for the ticket of a single session, and raises its error."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ticket = submit(lambda _: None if over.done() else over.set_result(None))
        try:
            await over
        except asyncio.CancelledError:
            ticket.cancel()
            raise
        if ticket.errors:
            raise ticket.errors[0]
        return ticket

    # Sessions

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
    ) -> Session:
        """A new session from the model's initial state, from `state`, or from `snapshot`.

        `session_id` names it where its client has done so; otherwise it is issued here.
        """
        await self.models.wake(model, version)
        runner = self.models.get(model, version)
        spec = runner.spec
        if not spec.streamable:
            raise NotStreamable(f"model {model!r} has no sessions: {spec.reason}; call it with Infer", model=model)
        if durable and runner.journal is None:
            raise InvalidRequest(
                "this server has no store, so no session outlives it; start it with --store to have durable sessions",
                field="durable",
            )
        if snapshot is not None:
            snapshot.verify(checksum, runner.name, runner.runtime.digest)
            if state or batch not in (0, 1, snapshot.batch):
                raise InvalidRequest("a snapshot brings its own batch and state; leave out the others", field="snapshot")
            batch, state = snapshot.batch, snapshot.states
        batch = batch or 1
        if batch < 1 or (batch > 1 and not spec.has_batch):
            raise InvalidRequest(f"batch is {batch}, expected {'1 or more' if spec.has_batch else '1'}", field="batch")
        name = session_id or self.sessions.issue(durable=durable)
        session = Session(name, runner, batch, durable, created=self.sessions.now())
        if state:
            session.load([np.array(a) for a in check_states(spec, state, batch)])
        if snapshot is not None:
            session.step_index = snapshot.step_index
        await self._admission.found([session], runner)
        return session

    async def attach(self, session_id: str) -> Session:
        """The session, brought from the store where it is not here. Raises as submit does."""
        if self._takeover is not None and self._takeover.needed([session_id], [None]):
            absent = await self._takeover.fetch([session_id])
            if absent:
                raise absent[session_id]
        return self.sessions.get(session_id)

    async def snapshot(self, session_id: str) -> Snapshot:
        """The committed state, whatever is in flight. Of a durable session, the one in the store."""
        if self._takeover is not None and self._is_stored(session_id):
            record = await self._takeover.record(session_id)
            return Snapshot(record.model, record.digest, record.batch, record.step_index, record.states)
        session = self.sessions.get(session_id)
        runner = session.runner
        names = (s.input for s in runner.spec.states)
        states = dict(zip(names, runner.state(session), strict=True))
        return Snapshot(session.model, runner.runtime.digest, session.batch, session.step_index, states)

    def _is_stored(self, session_id: str) -> bool:
        """Whether the store knows better than this server what the session is."""
        session = self.sessions.known(session_id)
        return session_id.startswith(DURABLE) if session is None else session.durable and not session.ahead

    async def fork(self, session_id: str, count: int) -> list[Session]:
        """`count` sessions that go on from the committed state. All or none are made."""
        if count < 0:
            raise InvalidRequest(f"count is {count}, expected 1 or more", field="count")
        if self._takeover is not None and self._is_stored(session_id):
            record = await self._takeover.record(session_id)
            runner = await self.models.holding(record.model, record.version, record.digest)
            loaded = states_of(record, runner.spec)
            forks = []
            for _ in range(count or 1):
                fork = Session(self.sessions.issue(durable=True), runner, record.batch, durable=True)
                fork.step_index = record.step_index
                fork.load(loaded)
                forks.append(fork)
        else:
            session = self.sessions.get(session_id)
            runner = session.runner
            forks = [session.fork(self.sessions.issue(durable=session.durable)) for _ in range(count or 1)]
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
                    raise absent[session_id]
            session = self.sessions.get(session_id)
            runner = session.runner
            error = await runner.journal.restart(session) if session.durable and runner.journal is not None else None
            if error is None:
                reset = StepOutOfOrder(f"session {session_id} was reset", session_id=session_id, expected_step_index=0)
                runner.abandon(session, reset)
                runner.release(session)
                session.reset()
                return session
            if not isinstance(error, SessionContended):
                break
        assert error is not None, "a round ends with a return or an error"
        raise error

    async def delete(self, session_id: str) -> None:
        """Steps in flight are not applied."""
        stored = self._takeover is not None and session_id.startswith(DURABLE) and await self._takeover.store.delete(session_id)
        session = self.sessions.known(session_id)
        if session is not None:
            self.sessions.remove(session)
            deleted = SessionNotFound(f"session {session_id} was deleted", session_id=session_id)
            session.runner.leave(session, deleted)
        elif not stored:
            raise self.sessions.absent(session_id)
