"""Ticket: one request that advances sessions, until it can be answered."""

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
from statecell.tensor import Array

from statecell_server.batching.inputs import Inputs
from statecell_server.batching.lines import Index
from statecell_server.batching.runner import Runner
from statecell_server.batching.step import Step
from statecell_server.errors import SessionContended, StatecellError
from statecell_server.sessions.reply import Reply
from statecell_server.sessions.session import Session

ROUNDS = 8
"""Times that a request is placed, when other servers keep stepping its sessions, before it is refused."""


class Ticket:
    """For each session of a request, by its position: a new step, a step in flight that it repeats, an old reply, or an error.

    `done` is called once, on the event loop, when all of them are over; until then the outcome is not to be asked for.
    """

    def __init__(self, done: Callable[["Ticket"], None]) -> None:
        self.errors: dict[int, StatecellError] = {}
        self.again: Callable[[Ticket, list[int]], None] | None = None
        """Places the positions once more, whose sessions another server has moved on."""
        self.doubtful: list[int] = []
        """Positions that were found out of order by a copy that another server may have gone on from: their records decide."""
        self.cancelled = False
        self.asked = False  # the store was, for what it has of them
        self._done = done
        self._rounds = 1
        self._replies: dict[int, Reply] = {}
        self._steps: list[tuple[Step, list[int]]] = []  # and the positions that it answers
        self._open = 1  # steps that are not over, and the submission itself
        self._first_rows: list[int] = []  # made when they are first asked for
        self.sessions: Sequence[Session | None] = ()
        self.output_names: Sequence[str] = ()  # none where no session of the request was found

    def begin(self, runner: Runner, sessions: Sequence[Session | None], inputs: Inputs, step_indexes: Sequence[Index]) -> None:
        """When the sessions are known."""
        self.runner, self.inputs = runner, inputs
        self.sessions, self.step_indexes, self.output_names = sessions, step_indexes, runner.output_names

    @property
    def over(self) -> bool:
        """Whether `done` was called."""
        return not self._open

    def rows(self, positions: Sequence[int]) -> list[int]:
        """The rows of the inputs that belong to these positions; a session that is not there has one."""
        if not self._first_rows:
            self._first_rows = [0, *accumulate(1 if session is None else session.batch for session in self.sessions)]
        firsts = self._first_rows
        return [row for position in positions for row in range(firsts[position], firsts[position + 1])]

    def settle(self) -> None:
        """One of the steps, or the submission, is over."""
        self._open -= 1
        if self._open:
            return
        contended = self._collect() + self.doubtful
        self.doubtful = []
        if contended and self.again is not None and self._rounds < ROUNDS and not self.cancelled:
            self._rounds += 1
            self._open = 1
            self.asked = True
            for position in contended:
                del self.errors[position]
            self.again(self, contended)
        else:
            self._done(self)

    def _collect(self) -> list[int]:
        """Takes over the steps' errors; gives the positions to be placed again, and forgets that they were."""
        contended = []
        for step, positions in self._steps:
            if not step.errors:
                continue
            for position in list(positions):
                session = self.sessions[position]
                error = step.errors.get(step.position_of(session)) if session else None
                if error is not None:
                    self.errors[position] = error
                if isinstance(error, SessionContended):
                    contended.append(position)
                    positions.remove(position)
        return sorted(contended)

    def cancel(self) -> None:
        """Nobody waits for the answer any more: what has not been committed will not be."""
        self.cancelled = True
        for step, _ in self._steps:
            if self in step.waiters:
                step.waiters.remove(self)
                if not step.waiters:
                    self.runner.drop(step)

    def awaits(self, step: Step, position: int) -> bool:
        """Whether one of its positions is answered by what comes of that one of the step."""
        session = step.sessions[position]
        return any(own is step and any(self.sessions[p] is session for p in positions) for own, positions in self._steps)

    def repeat(self, position: int, reply: Reply) -> None:
        """The position is answered by an old reply."""
        self._replies[position] = reply

    def join(self, step: Step, positions: list[int]) -> None:
        """The positions wait for `step`."""
        step.waiters.append(self)
        self._steps.append((step, list(positions)))
        self._open += 1

    def outcome(self) -> tuple[Sequence[int], Sequence[Array], Sequence[int]]:
        """(positions, outputs stacked along batch, step_indexes after the step) of the sessions that advanced."""
        if len(self._steps) == 1 and not self._replies and not self.errors:
            step, positions = self._steps[0]
            if len(positions) == len(step.sessions) == len(self.sessions):
                seq_len = step.inputs.seq_len
                return positions, step.outputs, [start + seq_len for start in step.starts]
        replies = dict(self._replies)
        for step, positions in self._steps:
            for position in positions:
                session = self.sessions[position]
                if session is not None and position not in self.errors:
                    replies[position] = step.reply_of(session)
        done = sorted(replies)
        if not done:
            return [], [], []
        outputs: list[Array] = []
        for i, axis in enumerate(t.batch_axis for t in self.runner.spec.outputs):
            parts = [self._rows(replies[position], i, axis, position) for position in done]
            outputs.append(np.concatenate(parts, axis) if axis is not None and len(parts) > 1 else parts[0])
        return done, outputs, [replies[position].start + replies[position].seq_len for position in done]

    def _rows(self, reply: Reply, output: int, axis: int | None, position: int) -> Array:
        session, array = self.sessions[position], reply.outputs[output]
        assert session is not None, "a reply is of a session"
        if axis is None:
            return array
        return array[(slice(None),) * axis + (slice(reply.first_row, reply.first_row + session.batch),)]
