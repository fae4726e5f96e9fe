"""Ticket: one request that advances sessions, until it can be answered."""

from collections.abc import Callable, Sequence

import numpy as np
from statecell.tensor import Array

from statecell_server.errors import StatecellError
from statecell_server.runner import Runner
from statecell_server.scheduler import Step
from statecell_server.sessions import Reply, Session


class Ticket:
    """For each session of a request, by its position: a new step, a step in flight that it repeats, an old reply, or an error.

    `done` is called once, on the event loop, when all of them are over; until then the outcome is not to be asked for.
    """

    def __init__(self, runner: Runner, sessions: Sequence[Session | None], done: Callable[["Ticket"], None]) -> None:
        self.runner = runner
        self.sessions = sessions
        self.errors: dict[int, StatecellError] = {}
        self._done = done
        self._replies: dict[int, Reply] = {}
        self._steps: list[tuple[Step, list[int]]] = []  # and the positions that it answers
        self._open = 1  # steps that are not over, and the submission itself

    @property
    def over(self) -> bool:
        """Whether `done` was called."""
        return not self._open

    def settle(self) -> None:
        """One of the steps, or the submission, is over."""
        self._open -= 1
        if not self._open:
            for step, positions in self._steps:
                for position in positions if step.errors else ():
                    session = self.sessions[position]
                    error = step.errors.get(step.sessions.index(session)) if session else None
                    if error is not None:
                        self.errors[position] = error
            self._done(self)

    def cancel(self) -> None:
        """Nobody waits for the answer any more: what has not been committed will not be."""
        for step, _ in self._steps:
            if self in step.waiters:
                step.waiters.remove(self)
                if not step.waiters:
                    self.runner.drop(step)

    def repeat(self, position: int, reply: Reply) -> None:
        """The position is answered by an old reply."""
        self._replies[position] = reply

    def join(self, step: Step, positions: list[int]) -> None:
        """The positions wait for `step`."""
        step.waiters.append(self)
        self._steps.append((step, positions))
        self._open += 1

    def outcome(self) -> tuple[list[int], list[Array], list[int]]:
        """(positions, outputs stacked along batch, step_indexes after the step) of the sessions that advanced."""
        if len(self._steps) == 1 and not self._replies and not self.errors:
            step, positions = self._steps[0]
            if len(positions) == len(step.sessions) == len(self.sessions):
                return positions, step.outputs, [start + step.inputs.seq_len for start in step.starts]
        replies = dict(self._replies)
        for step, positions in self._steps:
            for position in positions:
                session = self.sessions[position]
                if session is not None and position not in self.errors:
                    replies[position] = step.reply_of(session)
        done = sorted(replies)
        if not done:
            return [], [], []
        outputs = []
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
