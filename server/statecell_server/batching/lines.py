"""Lines: each session's steps that are in flight, one behind the other."""

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Final, Literal

from statecell_server.batching.step import Step
from statecell_server.errors import QueueFull, StepOutOfOrder
from statecell_server.sessions.reply import Reply
from statecell_server.sessions.session import Session


class At(Enum):
    """Where a step is to be taken, other than at an index that its caller claims."""

    NEXT = "wherever the session stands"


NEXT: Final = At.NEXT
"""As an index: behind all that is in flight, whoever has moved the session on; the reply is kept."""
Index = int | None | Literal[At.NEXT]
"""What a request says of where its step belongs. None: at the end, if nothing is in flight, and the reply is not kept."""
LONGEST = 256
"""Steps of one session that may be in flight."""


class Lines:
    """Only the first step of a line may run. `session.pending` is the length of a session's line. Belongs to the event loop."""

    def __init__(self) -> None:
        self._lines: dict[Session, tuple[Step, ...]] = {}

    def of(self, session: Session) -> Sequence[Step]:
        """The session's steps, the first one in front."""
        return self._lines.get(session, ())

    def join(self, step: Step) -> None:
        """The step goes behind the earlier ones of its sessions, and waits for them."""
        alone, lines = (step,), self._lines
        for session in step.sessions:
            if session.pending:
                lines[session] += alone
                step.blocked += 1
            else:
                lines[session] = alone
            session.pending += 1

    def join_alone(self, step: Step, session: Session) -> None:
        """One more session of a step that waits for nobody; nothing of the session is in flight."""
        self._lines[session] = (step,)
        session.pending = 1

    def leave(self, step: Step) -> Iterator[Step]:
        """The step is over. Gives, as often as it was in front of one, the step behind it."""
        for session in step.sessions:
            line = self._lines[session]
            session.pending -= 1
            if len(line) == 1:
                del self._lines[session]
                continue
            rest = self._lines[session] = tuple(other for other in line if other is not step)
            if line[0] is step:
                yield rest[0]

    def next_index(self, session: Session) -> int:
        """The step_index of the session's next new step, once all that is in flight has been applied.

        One that is lost, or that nobody waits for any more, and that is in flight only because it runs right now, will not be.
        """
        for step in reversed(self.of(session)):
            if (step.waiters or step.writing) and not step.lost(session):
                return step.stop_of(session)
        return session.step_index

    def place(self, session: Session, step_index: Index, seq_len: int) -> Step | Reply | None:
        """Where a step belongs: the step in flight that it repeats, the reply that it repeats, or None: at the end of the line.

        Raises StepOutOfOrder, QueueFull.
        """
        if session.pending >= LONGEST and step_index in (NEXT, self.next_index(session)):
            raise QueueFull(f"session {session.id} has {session.pending} steps in flight, the most is {LONGEST}")
        if step_index is NEXT:
            return None
        if step_index is None:
            if not all(step.lost(session) for step in self.of(session)):
                raise StepOutOfOrder(
                    f"session {session.id} has a step in flight; wait for its reply, or send step_index to queue steps",
                    session_id=session.id,
                )
            return None
        expected = self.next_index(session)
        if step_index == expected:
            return None
        for step in self.of(session):
            if (step.start_of(session), step.inputs.seq_len) == (step_index, seq_len) and not step.lost(session):
                return step
        if session.replied == seq_len and step_index == session.step_index - seq_len:
            return session.last
        raise StepOutOfOrder(
            f"session {session.id} is at step_index {expected}, the step of {seq_len} says {step_index}",
            session_id=session.id,
            expected_step_index=expected,
            step_index=step_index,
        )
