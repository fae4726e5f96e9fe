"""Steps: sessions advanced by what is sent, and calls that belong to no session."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from statecell.tensor import Array

from statecell_server.access.caller import ANYBODY, Caller
from statecell_server.batching.gathering import GatheredStep, Row
from statecell_server.batching.inputs import check_states, split_states
from statecell_server.batching.lines import Index
from statecell_server.engine.intake import Intake
from statecell_server.engine.repository import Repository
from statecell_server.engine.takeover import Takeover
from statecell_server.engine.ticket import Ticket
from statecell_server.errors import Draining
from statecell_server.sessions.session import DURABLE, LAST_INDEX, Session

Tensors = Mapping[str, Array]


class Steps:
    """`await steps.step(session_id, {"x": x}, None)`. Belongs to the event loop."""

    def __init__(self, models: Repository, intake: Intake, takeover: Takeover | None, now: Callable[[], float]) -> None:
        self.handed_over = False  # durable sessions go on elsewhere
        self._models = models
        self._intake = intake
        self._takeover = takeover
        self._now = now

    def submit(
        self,
        session_ids: Sequence[str],
        tensors: Tensors,
        step_indexes: Sequence[Index],
        done: Callable[[Ticket], None],
        caller: Caller = ANYBODY,
    ) -> Ticket:
        """One request for the sessions, their rows stacked in `tensors`; `done` gets the ticket when it can be answered.

        Raises what is wrong with the request as a whole; what is wrong with one session is in the ticket's errors. Sessions
        that are not the `caller`'s are not there.
        """
        if self.handed_over and any(i.startswith(DURABLE) for i in session_ids):
            raise Draining("the server is about to stop; another one with the same store goes on with its durable sessions")
        return self._intake.submit(session_ids, tensors, step_indexes, done, caller)

    def gather(self, session: Session, step_index: int | None, data: bytes, row: Row) -> tuple[GatheredStep, int] | None:
        """One time step of a session of one row, its input as bytes of `scheduler.layout`; `row` gets what comes of it.

        The short way of what `submit` does, taken where nothing is in flight and the index fits; None: take the other.
        Raises QueueFull.
        """
        if (
            session.pending
            or session.batch != 1
            or session.step_index > LAST_INDEX
            or (step_index is not None and step_index != session.step_index)
        ):
            return None
        if session.durable and (
            self.handed_over or self._takeover is None or self._takeover.needed((session.id,), (step_index,))
        ):
            return None
        session.used = self._now()
        return self._models.of(session).launcher.gather(session, step_index, data, row)

    async def step(self, session_id: str, tensors: Tensors, step_index: Index) -> tuple[dict[str, Array], int]:
        """Advances one session: (outputs by name, its step_index after the step)."""
        ticket = await self._answer(lambda done: self.submit([session_id], tensors, [step_index], done))
        _, outputs, indexes = ticket.outcome()
        return dict(zip(ticket.runner.output_names, outputs, strict=True)), indexes[0]

    async def infer(self, model: str, version: str, tensors: Tensors) -> dict[str, Array]:
        """One stateless call: the outputs, then the final states, by name."""
        runner = self._models.get(model, version)
        given, states = split_states(runner.spec, tensors)
        inputs = runner.check(given, None)
        session = Session("", runner.home, inputs.rows)
        if states:
            session.load(check_states(runner.spec, states, inputs.rows, finite=runner.finite))

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
            try:
                raise ticket.errors.pop(0)
            finally:
                del ticket  # the error holds this frame, and the ticket's steps hold the error
        return ticket
