"""Ledger: where sessions move on by the steps that have run, or do not."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat

from statecell_server.arena.arena import StateArena
from statecell_server.batching.journal import Journal
from statecell_server.batching.scheduler import Scheduler
from statecell_server.batching.step import Step
from statecell_server.durability.store import contended
from statecell_server.errors import InternalError, StatecellError, StepOutOfOrder
from statecell_server.sessions.budget import Budget
from statecell_server.sessions.session import Session

log = logging.getLogger(__name__)

Move = tuple[Session, tuple[int, ...], bytes]
"""A session, its new slots, and its reply."""


class Ledger:
    """Commits the steps of one model and tells those who wait. Belongs to the event loop."""

    def __init__(
        self,
        arena: StateArena,
        budget: Budget,
        scheduler: Scheduler,
        journal: Journal | None,
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called when steps were committed some time after they had run."""
        self._arena = arena
        self._budget = budget
        self._scheduler = scheduler
        self._journal = journal
        self._changed = changed
        self._writing: set[asyncio.Task[None]] = set()

    def close(self, steps: Sequence[Step]) -> None:
        """The steps are over. What durable sessions did is written before it is committed, while others go on."""
        if self._journal is not None and (due := [step for step in steps if self._journal.due(step)]):
            steps = [step for step in steps if step not in due]
            for step in due:
                step.writing = True
            task = asyncio.get_running_loop().create_task(self._write(due, self._journal))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)
        self.commit(steps)

    async def _write(self, steps: Sequence[Step], journal: Journal) -> None:
        try:
            await journal.write(steps)
        except Exception as error:
            log.exception("a write failed")
            for step in steps:
                step.fail_all(InternalError(f"the write failed: {error}"))
        self.commit(steps)
        self._changed()

    async def written(self) -> None:
        """When all that is on its way to the store now is there and committed, or has failed."""
        if self._writing:
            await asyncio.wait(set(self._writing))

    def commit(self, steps: Sequence[Step]) -> None:
        """All of them, and only then is anybody told."""
        freed: list[int] = []
        for step in steps:
            self._commit(step, freed)
        self._arena.free(freed)
        for step in steps:
            # Off the step first: a waiter holds its steps, and a circle would be the garbage collector's to find.
            waiters, step.waiters = step.waiters, []
            for waiter in waiters:
                try:
                    waiter.settle()
                except Exception:  # its own call's to suffer, and nobody else's
                    log.exception("an answer failed")

    def _commit(self, step: Step, freed: list[int]) -> None:
        """The one place where a session's state moves on, or, where its step failed or nobody waits for it, does not."""
        seq_len, replied = step.inputs.seq_len, step.inputs.seq_len if step.repeatable else 0
        replies = step.replies if step.repeatable and step.replies else repeat(b"")
        moves: Iterable[Move] = zip(step.sessions, step.slots_of_each(), replies, strict=False)
        if step.errors or not step.waiters:
            moves = self._refuse(step, moves, freed)
        kept = 0
        for session, slots, reply in moves:
            kept += len(reply) - len(session.reply)
            freed += session.slots
            session.slots, session.loaded = slots, None
            session.step_index += seq_len
            session.replied, session.reply = replied, reply
        self._budget.used += kept
        if step.fences:
            for position, fence in step.fences.items():
                if position not in step.errors:
                    step.sessions[position].fence = fence
        self._scheduler.finish(step)

    def _refuse(self, step: Step, moves: Iterable[Move], freed: list[int]) -> list[Move]:
        """Gives back those that are to be made."""
        made = []
        for position, move in enumerate(moves):
            if position in step.errors or not (step.waiters or position in step.fences):
                freed += move[1]
                self._doom(move[0], step)
            else:
                made.append(move)
        return made

    def _doom(self, session: Session, step: Step) -> None:
        """The steps that the session has pending on top of one that was not applied cannot be applied either.

        Not here: of a durable session another server may have applied that one meanwhile, which its record tells.
        """
        error = step.errors.get(step.position_of(session))
        passing: StatecellError | None = None
        if session.durable:
            passing = error if error is not None and error.retry_seconds is not None else contended(session.id)
        expected = session.step_index
        line = self._scheduler.lines.of(session)
        for later in line[line.index(step) + 1 :]:
            if later.start_of(session) == expected:  # placed when nobody waited for that one any more
                expected = later.stop_of(session)
                continue
            later.fail(
                session,
                passing
                or StepOutOfOrder(
                    f"session {session.id} is at step_index {session.step_index}: "
                    f"what came before this step (step_index {later.start_of(session)}) was not applied",
                    session_id=session.id,
                    expected_step_index=session.step_index,
                ),
            )
