"""Intake: from a request to its steps in a runner's queue."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence

from statecell.tensor import Array

from statecell_server.errors import InvalidRequest, QueueFull, ShapeMismatch, StatecellError, StepOutOfOrder
from statecell_server.inputs import Inputs
from statecell_server.repository import Repository
from statecell_server.runner import Runner
from statecell_server.sessions import Reply, Session, Sessions
from statecell_server.takeover import Takeover
from statecell_server.ticket import Ticket


class Intake:
    """Finds the sessions of a request, here or in the store, checks the inputs, and places each session's step."""

    def __init__(self, sessions: Sessions, models: Repository, takeover: Takeover | None) -> None:
        self._sessions = sessions
        self._models = models
        self._takeover = takeover

    def submit(
        self,
        session_ids: Sequence[str],
        tensors: Mapping[str, Array],
        step_indexes: Sequence[int | None],
        done: Callable[[Ticket], None],
    ) -> Ticket:
        """As Engine.submit."""
        if not session_ids or len(step_indexes) != len(session_ids):
            raise InvalidRequest(
                f"{len(session_ids)} session_ids and {len(step_indexes)} step_indexes, expected one index a session or none"
            )
        ticket = Ticket(done)
        if self._takeover is not None and self._takeover.needed(session_ids, step_indexes):
            late = functools.partial(self._begin_late, ticket, session_ids, tensors, step_indexes)
            self._takeover.request(session_ids, step_indexes, late)
            return ticket
        self._begin(ticket, session_ids, tensors, step_indexes, {})
        ticket.settle()
        return ticket

    def place_alone(self, runner: Runner, session: Session, inputs: Inputs, done: Callable[[Ticket], None]) -> Ticket:
        """A step of a session that is in no table."""
        ticket = Ticket(done)
        ticket.begin(runner, [session], inputs, [None])
        self._queue(ticket, [0])
        ticket.settle()
        return ticket

    def _begin_late(
        self,
        ticket: Ticket,
        session_ids: Sequence[str],
        tensors: Mapping[str, Array],
        step_indexes: Sequence[int | None],
        absent: Mapping[str, StatecellError],
    ) -> None:
        """The request's sessions were brought from the store."""
        if ticket.cancelled:
            return
        try:
            self._begin(ticket, session_ids, tensors, step_indexes, absent)
        except StatecellError as error:
            ticket.errors = dict.fromkeys(range(len(session_ids)), error)
        ticket.settle()

    def _begin(
        self,
        ticket: Ticket,
        session_ids: Sequence[str],
        tensors: Mapping[str, Array],
        step_indexes: Sequence[int | None],
        absent: Mapping[str, StatecellError],
    ) -> None:
        found: list[Session | None] = []
        errors: dict[int, StatecellError] = {}
        for position, session_id in enumerate(session_ids):
            session = self._sessions.known(session_id) if session_id not in absent else None
            found.append(session)
            if session is None:
                errors[position] = absent.get(session_id) or self._sessions.absent(session_id)
        known = [s for s in found if s is not None]
        if not known:
            raise errors[0]
        if any(s.model != known[0].model or s.version != known[0].version for s in known):
            raise InvalidRequest("the sessions of one message must be of one model and version", field="session_ids")
        runner = self._models.get(known[0].model, known[0].version)
        inputs = self._inputs(runner, known, len(found), tensors)
        ticket.begin(runner, found, inputs, step_indexes)
        ticket.errors = errors
        if self._takeover is not None:
            ticket.again = functools.partial(self._again, self._takeover)
        self._place(ticket, range(len(found)))

    def _again(self, takeover: Takeover, ticket: Ticket, positions: list[int]) -> None:
        """Another server has moved these sessions on: by their records, the steps are repeated, run, or out of order."""
        ids = {position: session.id for position in positions if (session := ticket.sessions[position]) is not None}

        def late(absent: Mapping[str, StatecellError]) -> None:
            errors = {}
            for position, session_id in ids.items():
                session = self._sessions.known(session_id)
                if session is None or session_id in absent:
                    errors[position] = absent.get(session_id) or self._sessions.absent(session_id)
                else:
                    ticket.sessions[position] = session
            if not ticket.cancelled:
                ticket.errors |= errors
                self._place(ticket, [position for position in positions if position not in errors])
                ticket.settle()

        takeover.request(list(ids.values()), [ticket.step_indexes[position] for position in ids], late)

    @staticmethod
    def _inputs(runner: Runner, known: Sequence[Session], count: int, tensors: Mapping[str, Array]) -> Inputs:
        rows = sum(s.batch for s in known)
        if len(known) == count:
            return runner.check(tensors, rows)
        # The rows of sessions that are not there are skipped, if the message leaves no doubt how many they are.
        inputs = runner.check(tensors, None)
        if inputs.rows - rows != count - len(known):
            raise ShapeMismatch(f"the inputs have {inputs.rows} rows, expected {rows} and one for each unknown session")
        return inputs

    def _place(self, ticket: Ticket, positions: Sequence[int]) -> None:
        """New steps are queued, as one Step where they can be; repeated ones find their reply or the step in flight."""
        now = time.time()
        new: list[int] = []
        seen: set[Session] = set()
        for position in positions:
            session = ticket.sessions[position]
            if session is None:
                continue
            if session in seen or ticket.runner.variance:  # its next step; or nobody may share its run
                self._queue(ticket, new)
                new, seen = [], set()
            seen.add(session)
            session.used = now
            try:
                placed = session.place(ticket.step_indexes[position], ticket.inputs.seq_len)
            except StepOutOfOrder as error:
                ticket.errors[position] = error
            else:
                if placed is None:
                    new.append(position)
                elif isinstance(placed, Reply):
                    ticket.repeat(position, placed)
                else:
                    ticket.join(placed, [position])
        self._queue(ticket, new)

    @staticmethod
    def _queue(ticket: Ticket, new: list[int]) -> None:
        if not new:
            return
        inputs = ticket.inputs
        rows = ticket.rows(new)
        if len(rows) < inputs.rows:
            inputs = inputs.take(ticket.runner.spec, rows)
        sessions = [s for s in (ticket.sessions[position] for position in new) if s is not None]
        step = ticket.runner.step(sessions, inputs, repeatable=ticket.step_indexes[new[0]] is not None)
        try:
            ticket.runner.submit(step)
        except QueueFull as error:
            ticket.errors.update(dict.fromkeys(new, error))
        else:
            ticket.join(step, new)
