"""Engine: everything that a client can ask for. Knows neither protobuf nor gRPC."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from statecell.tensor import Array

from statecell_server.config import Config
from statecell_server.errors import (
    Draining,
    InvalidRequest,
    NotStreamable,
    QueueFull,
    SessionNotFound,
    ShapeMismatch,
    StateBudgetExceeded,
    StatecellError,
    StepOutOfOrder,
)
from statecell_server.inputs import Inputs, check_states, split_states
from statecell_server.repository import Repository
from statecell_server.runner import Runner
from statecell_server.sessions import Reply, Session, Sessions
from statecell_server.snapshot import Snapshot
from statecell_server.ticket import Ticket

Tensors = Mapping[str, Array]


class Engine:
    """Models, sessions and steps. All methods belong to the event loop."""

    def __init__(self, config: Config) -> None:
        """Loads the models. Raises runtime.LoadError."""
        self.models = Repository(config)
        self.sessions = Sessions(config.session_ttl)
        self.draining = False

    async def start(self) -> None:
        for runner in self.models:
            runner.start()
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """After the last call was answered."""
        self._sweeper.cancel()
        for runner in self.models:
            runner.stop()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1)
            for session in self.sessions.expire(time.time()):
                self._forget(session)

    def runner(self, session: Session) -> Runner:
        return self.models.get(session.model, session.version)

    def sessions_of(self, runner: Runner) -> int:
        """How many are open on this version."""
        return sum(s.model == runner.name and s.version == runner.version for s in self.sessions)

    # Steps

    def submit(
        self, session_ids: Sequence[str], tensors: Tensors, step_indexes: Sequence[int | None], done: Callable[[Ticket], None]
    ) -> Ticket:
        """One request for the sessions, their rows stacked in `tensors`; `done` gets the ticket when it can be answered.

        Raises what is wrong with the request as a whole; what is wrong with one session is in the ticket's errors.
        """
        if not session_ids or len(step_indexes) != len(session_ids):
            raise InvalidRequest(
                f"{len(session_ids)} session_ids and {len(step_indexes)} step_indexes, expected one index a session or none"
            )
        found, errors = self.sessions.find(session_ids)
        known = [s for s in found if s is not None]
        if not known:
            raise errors[0]
        if any(s.model != known[0].model or s.version != known[0].version for s in known):
            raise InvalidRequest("the sessions of one message must be of one model and version", field="session_ids")
        runner = self.runner(known[0])
        inputs = self._inputs(runner, known, len(found), tensors)
        ticket = Ticket(runner, found, done)
        ticket.errors = errors
        self._place(ticket, inputs, step_indexes)
        ticket.settle()
        return ticket

    @staticmethod
    def _inputs(runner: Runner, known: Sequence[Session], count: int, tensors: Tensors) -> Inputs:
        rows = sum(s.batch for s in known)
        if len(known) == count:
            return runner.check(tensors, rows)
        # The rows of sessions that are not there are skipped, if the message leaves no doubt how many they are.
        inputs = runner.check(tensors, None)
        if inputs.rows - rows != count - len(known):
            raise ShapeMismatch(f"the inputs have {inputs.rows} rows, expected {rows} and one for each unknown session")
        return inputs

    def _place(self, ticket: Ticket, inputs: Inputs, step_indexes: Sequence[int | None]) -> None:
        """New steps are queued, as one Step where they can be; repeated ones find their reply or the step in flight."""
        now = time.time()
        new: list[int] = []
        rows: list[int] = []  # of the new ones
        seen: set[Session] = set()
        row = 0
        for position, session in enumerate(ticket.sessions):
            if session is None:
                row += 1
                continue
            if session in seen or ticket.runner.variance:  # its next step; or nobody may share its run
                self._queue(ticket, inputs, new, rows, step_indexes)
                new, rows, seen = [], [], set()
            seen.add(session)
            session.used = now
            try:
                placed = session.place(step_indexes[position], inputs.seq_len)
            except StepOutOfOrder as error:
                ticket.errors[position] = error
            else:
                if placed is None:
                    new.append(position)
                    rows += range(row, row + session.batch)
                elif isinstance(placed, Reply):
                    ticket.repeat(position, placed)
                else:
                    ticket.join(placed, [position])
            row += session.batch
        self._queue(ticket, inputs, new, rows, step_indexes)

    @staticmethod
    def _queue(ticket: Ticket, inputs: Inputs, new: list[int], rows: list[int], step_indexes: Sequence[int | None]) -> None:
        if not new:
            return
        sessions = [s for s in (ticket.sessions[position] for position in new) if s is not None]
        if len(rows) < inputs.rows:
            inputs = inputs.take(ticket.runner.spec, rows)
        step = ticket.runner.step(sessions, inputs, repeatable=step_indexes[new[0]] is not None)
        try:
            ticket.runner.submit(step)
        except QueueFull as error:
            ticket.errors.update(dict.fromkeys(new, error))
        else:
            ticket.join(step, new)

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
        session = Session("", runner.name, runner.version, batch=inputs.rows)
        if states:
            session.loaded = check_states(runner.spec, states, inputs.rows)

        def submit(done: Callable[[Ticket], None]) -> Ticket:
            ticket = Ticket(runner, [session], done)
            self._queue(ticket, inputs, [0], list(range(inputs.rows)), [None])
            ticket.settle()
            return ticket

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

    def create(
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
        runner = self.models.get(model, version)
        spec = runner.spec
        if not spec.streamable:
            raise NotStreamable(f"model {model!r} has no sessions: {spec.reason}; call it with Infer", model=model)
        if durable:
            raise InvalidRequest("this server has no store: durable sessions are not available", field="durable")
        if snapshot is not None:
            snapshot.verify(checksum, runner.name, runner.runtime.digest)
            if state or batch not in (0, 1, snapshot.batch):
                raise InvalidRequest("a snapshot brings its own batch and state; leave out the others", field="snapshot")
            batch, state = snapshot.batch, snapshot.states
        batch = batch or 1
        if batch < 1 or (batch > 1 and not spec.has_batch):
            raise InvalidRequest(f"batch is {batch}, expected {'1 or more' if spec.has_batch else '1'}", field="batch")
        session = Session(session_id or self.sessions.issue(), runner.name, runner.version, batch)
        if state:
            session.loaded = [np.array(a) for a in check_states(spec, state, batch)]
        if snapshot is not None:
            session.step_index = snapshot.step_index
        return self._enter(session, runner)

    def _enter(self, session: Session, runner: Runner) -> Session:
        if self.draining:
            raise Draining("the server is about to stop and takes no new sessions")
        if runner.rows + session.batch > runner.arena.budget:
            raise StateBudgetExceeded(
                f"{runner.rows} rows of state are held, {session.batch} more would exceed the {runner.arena.budget} that fit "
                "into --state-memory",
                model=runner.name,
            )
        runner.rows += session.batch
        self.sessions.add(session)
        return session

    def snapshot(self, session_id: str) -> Snapshot:
        """The committed state, whatever is in flight."""
        session = self.sessions.get(session_id)
        runner = self.runner(session)
        names = (s.input for s in runner.spec.states)
        states = dict(zip(names, runner.state(session), strict=True))
        return Snapshot(session.model, runner.runtime.digest, session.batch, session.step_index, states)

    def fork(self, session_id: str, count: int) -> list[Session]:
        """`count` sessions that go on from the committed state. All or none are made."""
        session = self.sessions.get(session_id)
        runner = self.runner(session)
        if count < 0:
            raise InvalidRequest(f"count is {count}, expected 1 or more", field="count")
        forks: list[Session] = []
        try:
            for _ in range(count or 1):
                forks.append(self._enter(session.fork(self.sessions.issue()), runner))
                runner.arena.share(session.slots)
        except StatecellError:
            for fork in forks:
                self.sessions.remove(fork)
                self._forget(fork)
            raise
        return forks

    def reset(self, session_id: str) -> Session:
        """Back to the model's initial state. Steps in flight are not applied."""
        session = self.sessions.get(session_id)
        runner = self.runner(session)
        runner.abandon(session, StepOutOfOrder(f"session {session.id} was reset", session_id=session.id, expected_step_index=0))
        runner.release(session)
        session.reset()
        return session

    def delete(self, session_id: str) -> None:
        """Steps in flight are not applied."""
        session = self.sessions.get(session_id)
        self.sessions.remove(session)
        self._forget(session)

    def _forget(self, session: Session) -> None:
        runner = self.runner(session)
        runner.abandon(session, SessionNotFound(f"session {session.id} was deleted", session_id=session.id))
        runner.release(session)
        runner.rows -= session.batch
