"""Intake: from a request to its steps in a runner's queue."""

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from statecell.tensor import Array

from statecell_server.access.caller import Caller
from statecell_server.batching.inputs import Inputs
from statecell_server.batching.lines import LONGEST, Index
from statecell_server.batching.runner import Runner
from statecell_server.batching.step import Step
from statecell_server.engine.repository import Repository
from statecell_server.engine.takeover import Takeover
from statecell_server.engine.ticket import Ticket
from statecell_server.errors import (
    InternalError,
    InvalidRequest,
    QueueFull,
    ShapeMismatch,
    StateBudgetExceeded,
    StatecellError,
    StepOutOfOrder,
)
from statecell_server.sessions.reply import Reply
from statecell_server.sessions.session import LAST_INDEX, Session
from statecell_server.sessions.table import Sessions

log = logging.getLogger(__name__)

MOST_SESSIONS = 16_384
"""Sessions in one message."""


def check_named(session_ids: Sequence[str], step_indexes: Sequence[Index]) -> None:
    """What can be said of a request's sessions by their names alone. Raises InvalidRequest."""
    if not session_ids or len(step_indexes) != len(session_ids):
        raise InvalidRequest(
            f"{len(session_ids)} session_ids and {len(step_indexes)} step_indexes, expected one index a session or none"
        )
    if len(session_ids) > MOST_SESSIONS:
        raise InvalidRequest(f"{len(session_ids)} session_ids, the most in a message is {MOST_SESSIONS}", field="session_ids")
    again = len(session_ids) - len(set(session_ids))
    if again >= LONGEST:
        raise InvalidRequest(
            f"{again} session_ids are named again in one message, the most is {LONGEST - 1}", field="session_ids"
        )


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
        step_indexes: Sequence[Index],
        done: Callable[[Ticket], None],
        caller: Caller,
    ) -> Ticket:
        """As Steps.submit."""
        check_named(session_ids, step_indexes)
        ticket = Ticket(done)
        foreign = {i: self._sessions.foreign(i) for i in session_ids if not caller.owns(i)}
        own, indexes = session_ids, step_indexes
        if foreign:
            places = [place for place, i in enumerate(session_ids) if i not in foreign]
            own, indexes = [session_ids[place] for place in places], [step_indexes[place] for place in places]
        if self._takeover is not None and self._takeover.needed(own, indexes):

            def late(absent: Mapping[str, StatecellError]) -> None:
                self._begin_late(ticket, session_ids, tensors, step_indexes, {**absent, **foreign})

            self._takeover.request(own, indexes, late)
            return ticket
        self._begin(ticket, session_ids, tensors, step_indexes, foreign)
        ticket.settle()
        return ticket

    def place_alone(self, runner: Runner, session: Session, inputs: Inputs, done: Callable[[Ticket], None]) -> Ticket:
        """A step of a session that is in no table."""
        ticket = Ticket(done)
        ticket.begin(runner, [session], inputs, [None])
        self._queue(ticket, [0], [session], [session.step_index])
        ticket.settle()
        return ticket

    def _begin_late(
        self,
        ticket: Ticket,
        session_ids: Sequence[str],
        tensors: Mapping[str, Array],
        step_indexes: Sequence[Index],
        absent: Mapping[str, StatecellError],
    ) -> None:
        """The request's sessions were brought from the store."""
        if ticket.cancelled:
            return
        try:
            self._begin(ticket, session_ids, tensors, step_indexes, absent)
        except StatecellError as error:
            ticket.errors = dict.fromkeys(range(len(session_ids)), error.kept())
        except Exception as error:  # whoever waits must hear of it
            log.exception("a request failed")
            ticket.errors = dict.fromkeys(range(len(session_ids)), InternalError(f"the request failed: {error}"))
        ticket.settle()

    def _begin(
        self,
        ticket: Ticket,
        session_ids: Sequence[str],
        tensors: Mapping[str, Array],
        step_indexes: Sequence[Index],
        absent: Mapping[str, StatecellError],
    ) -> None:
        known = None if absent else self._sessions.find(session_ids)
        found: Sequence[Session | None] = known or self._missing(ticket, session_ids, absent)
        known = known or [s for s in found if s is not None]
        home, rows = known[0].home, 0
        for session in known:
            if session.home is not home:
                raise InvalidRequest("the sessions of one message must be of one model and version", field="session_ids")
            rows += session.batch
        runner = self._models.of(known[0])
        if len(found) > 1 and not runner.scheduler.stacks:
            raise InvalidRequest(
                f"model {runner.name!r} runs one session at a time; send a message for each of the {len(found)}",
                field="session_ids",
            )
        if len(known) == len(found):
            inputs = runner.check(tensors, rows)
        else:
            # The rows of sessions that are not there are skipped, if the message leaves no doubt how many they are.
            inputs = runner.check(tensors, None)
            if inputs.rows - rows != len(found) - len(known):
                raise ShapeMismatch(f"the inputs have {inputs.rows} rows, expected {rows} and one for each unknown session")
        ticket.begin(runner, found, inputs, step_indexes)
        if self._takeover is not None:
            ticket.again = functools.partial(self._again, self._takeover)
        self._place(ticket, range(len(found)))

    def _missing(
        self, ticket: Ticket, session_ids: Sequence[str], absent: Mapping[str, StatecellError]
    ) -> list[Session | None]:
        """The sessions, None where one is not there; the ticket is told why. Raises where none is."""
        found = [None if i in absent else self._sessions.known(i) for i in session_ids]
        for position, session_id in enumerate(session_ids):
            if found[position] is None:
                ticket.errors[position] = absent.get(session_id) or self._sessions.absent(session_id)
        if len(ticket.errors) == len(found):
            raise ticket.errors.pop(0)
        return found

    def _again(self, takeover: Takeover, ticket: Ticket, positions: list[int]) -> None:
        """Another server has moved these sessions on: by their records, the steps are repeated, run, or out of order."""
        ids = {position: session.id for position in positions if (session := ticket.sessions[position]) is not None}

        def late(absent: Mapping[str, StatecellError]) -> None:
            errors, sessions = {}, list(ticket.sessions)
            for position, session_id in ids.items():
                session = self._sessions.known(session_id)
                if session is None or session_id in absent:
                    errors[position] = absent.get(session_id) or self._sessions.absent(session_id)
                else:
                    sessions[position] = session
            if not ticket.cancelled:
                ticket.errors |= errors
                ticket.sessions = sessions
                self._place(ticket, [position for position in positions if position not in errors])
                ticket.settle()

        takeover.request(list(ids.values()), [ticket.step_indexes[position] for position in ids], late, doubt=True)

    def _place(self, ticket: Ticket, positions: Sequence[int]) -> None:
        """New steps are queued, as one Step where they can be; repeated ones find their reply or the step in flight."""
        if len(positions) == 1:
            self._place_group(ticket, positions)
            return
        for group in self._groups(ticket, positions):
            self._place_group(ticket, group)

    @staticmethod
    def _groups(ticket: Ticket, positions: Sequence[int]) -> Iterable[Sequence[int]]:
        """Positions that may share a step: a session that is named again takes its steps one after the other."""
        if ticket.runner.sharing.alone:
            return [[position] for position in positions]
        if len(set(ticket.sessions)) == len(ticket.sessions):
            return [positions]
        groups: list[list[int]] = [[]]
        seen: set[Session | None] = set()
        for position in positions:
            if ticket.sessions[position] in seen:
                groups.append([])
                seen.clear()
            seen.add(ticket.sessions[position])
            groups[-1].append(position)
        return groups

    def _place_group(self, ticket: Ticket, positions: Sequence[int]) -> None:
        """The one pass over a request's sessions in front of its run."""
        new: list[int] = []
        moving: list[Session] = []
        starts: list[int] = []
        lines = ticket.runner.scheduler.lines
        sessions, indexes, now = ticket.sessions, ticket.step_indexes, self._sessions.now()
        for position in positions:
            session, index = sessions[position], indexes[position]
            if session is None:
                continue
            session.used = now
            start = session.step_index
            if start > LAST_INDEX:
                ticket.errors[position] = InvalidRequest(f"session {session.id} has reached its last step_index: {start}")
                continue
            if session.pending or (isinstance(index, int) and index != start):  # otherwise it is idle, and where it should be
                try:
                    placed = lines.place(session, index, ticket.inputs.seq_len)
                except (StepOutOfOrder, QueueFull) as error:
                    ticket.errors[position] = error.kept()
                    if isinstance(error, StepOutOfOrder) and session.durable and session.pending and not ticket.asked:
                        ticket.doubtful.append(position)  # what is in flight here may be what another server has done already
                    continue
                if isinstance(placed, Reply):
                    ticket.repeat(position, placed)
                    continue
                if placed is not None:
                    ticket.join(placed, [position])
                    continue
                start = lines.next_index(session)
            new.append(position)
            moving.append(session)
            starts.append(start)
        if new:
            self._queue(ticket, new, moving, starts)

    @staticmethod
    def _queue(ticket: Ticket, new: list[int], sessions: list[Session], starts: list[int]) -> None:
        runner, inputs = ticket.runner, ticket.inputs
        if len(new) < len(ticket.sessions):
            rows = ticket.rows(new)
            if len(rows) < inputs.rows:
                inputs = inputs.take(runner.spec, rows)
        answer = runner.replies.size(inputs.seq_len, inputs.rows)
        cost = answer + sum(array.nbytes for array in inputs.arrays)
        step = Step(
            sessions, inputs, starts, runner.spec.streamable, repeatable=ticket.step_indexes[new[0]] is not None, cost=cost
        )
        try:
            if answer > runner.max_answer:
                raise InvalidRequest(
                    f"the answer would have {answer} bytes, the most is {runner.max_answer} (--max-message): "
                    "send fewer time steps or rows at once"
                )
            runner.submit(step)
        except (InvalidRequest, QueueFull, StateBudgetExceeded) as error:
            ticket.errors.update(dict.fromkeys(new, error.kept()))
        else:
            ticket.join(step, new)
