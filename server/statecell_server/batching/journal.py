"""Journal: what a Runner asks to make steps outlive the server."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from statecell.spec import ModelSpec
from statecell.tensor import Array

from statecell_server.arena.arena import StateArena
from statecell_server.batching.step import Step
from statecell_server.durability.record import Record
from statecell_server.durability.store import StateStore, Write
from statecell_server.errors import (
    InternalError,
    InvalidRequest,
    SessionContended,
    StatecellError,
    StepOutOfOrder,
    StoreUnavailable,
)
from statecell_server.sessions.session import Session

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stamp:
    """What the records of a model say about where they come from."""

    model: str
    version: str
    digest: str
    owner: str


class Journal:
    """Writes the records of one model's durable sessions. Belongs to the event loop."""

    def __init__(self, store: StateStore, stamp: Stamp, spec: ModelSpec, arena: StateArena, every: int, largest: int) -> None:
        """`every`: a session is written when it has gone on by that many time steps; 1: before any step is answered.

        `largest`: bytes of a record at most. A store writes one record at a time: a huge one is time that all others wait.
        """
        self.store = store
        self._stamp = stamp
        self._spec = spec
        self._arena = arena
        self.every = every
        self._largest = largest
        self._batched = all(s.batch_axis is not None for s in spec.states)

    def check_size(self, batch: int) -> None:
        """Raises InvalidRequest where sessions of so many rows are too large to be durable, the last reply beside the state."""
        size = batch * self._spec.state_bytes
        if 2 * size > self._largest:
            raise InvalidRequest(
                f"batch is {batch}, of {size} bytes of state: a durable session may have {self._largest // 2} "
                "(half of --max-record); use several sessions, or one that is not durable",
                field="batch",
            )

    def due(self, step: Step) -> bool:
        """Whether the step, which has run, must be written before it is committed."""
        return any(self._due(step, position) for position in range(len(step.sessions)))

    def _due(self, step: Step, position: int) -> bool:
        session = step.sessions[position]
        return (
            session.durable
            and bool(step.waiters)
            and position not in step.errors
            and (self.every == 1 or session.ahead + step.inputs.seq_len >= self.every)
        )

    async def write(self, steps: Sequence[Step]) -> None:
        """The state and reply of every session that is due, in one round trip. Each gets its new fence or its error."""
        saving = [s.saving for step in steps for s in step.sessions if s.saving is not None]
        if saving:  # of an older state of the same session; its outcome is met below
            await asyncio.wait(saving)
        for step in steps:
            if not step.waiters:  # and nobody may join it from now on, who would be answered by what was not written
                step.fail_all(StepOutOfOrder("the step was given up before it was written"))
        due = [(step, position) for step in steps for position in range(len(step.sessions)) if self._due(step, position)]
        records = [self._encoded(step, position, part) for (step, position), part in zip(due, self._states(due), strict=True)]
        errors = iter(await self._try([write for write in records if isinstance(write, Write)]))
        for (step, position), write in zip(due, records, strict=True):
            error = next(errors) if isinstance(write, Write) else write
            if error is None and isinstance(write, Write):
                step.fences[position] = write.fence
            elif error is not None:
                step.errors[position] = error
                step.sessions[position].stale |= isinstance(error, SessionContended)

    def _encoded(self, step: Step, position: int, states: list[Array]) -> Write | StatecellError:
        """The record of one session; one that cannot be made is that session's failure alone."""
        session = step.sessions[position]
        try:
            record = self._record(step, position, states)
            size = sum(array.nbytes for array in (*record.states.values(), *record.outputs.values()))
            if size > self._largest:
                return InvalidRequest(
                    f"the record of session {session.id} would take {size} bytes, the most is {self._largest} (--max-record): "
                    "send fewer time steps at once",
                    session_id=session.id,
                )
            return Write(session.id, session.fence, record.encode())
        except Exception as error:
            log.exception("the record of session %s cannot be made", session.id[:16])
            return InternalError(f"the record of session {session.id} cannot be made: {error}", session_id=session.id)

    def _states(self, due: Sequence[tuple[Step, int]]) -> list[list[Array]]:
        """The next states of each, in one gather where they can be."""
        slots = [self._slots(step, position) for step, position in due]
        if not self._batched:
            return [self._arena.read(rows) for rows in slots]
        states = self._arena.read([slot for rows in slots for slot in rows]) if slots else []
        parts, row = [], 0
        for rows in slots:
            parts.append([_rows(a, s.batch_axis, row, row + len(rows)) for a, s in zip(states, self._spec.states, strict=True)])
            row += len(rows)
        return parts

    @staticmethod
    def _slots(step: Step, position: int) -> Sequence[int]:
        first = step.first_row(position)
        return step.slots[first : first + step.sessions[position].batch]

    def _record(self, step: Step, position: int, states: list[Array]) -> Record:
        session, start = step.sessions[position], step.starts[position]
        if not step.repeatable:
            return self.record(session, states, start + step.inputs.seq_len)
        first = step.first_row(position)
        outputs = {
            tensor.name: _rows(array, tensor.batch_axis, first, first + session.batch)
            for tensor, array in zip(self._spec.outputs, step.outputs, strict=True)
        }
        return self.record(session, states, start + step.inputs.seq_len, start, outputs)

    def record(
        self,
        session: Session,
        states: Sequence[Array],
        step_index: int,
        reply_start: int = -1,
        outputs: dict[str, Array] | None = None,
    ) -> Record:
        """The session at `step_index`, with the reply to the step that began at `reply_start` (-1: none)."""
        return Record(
            model=self._stamp.model,
            version=self._stamp.version,
            digest=self._stamp.digest,
            owner=self._stamp.owner,
            batch=session.batch,
            step_index=step_index,
            created=session.created,
            states={s.input: a for s, a in zip(self._spec.states, states, strict=True)},
            reply_start=reply_start,
            outputs=outputs or {},
        )

    def committed(self, session: Session) -> Record:
        """The session as it stands, with the reply that it would repeat."""
        states = session.loaded if session.loaded is not None else self._arena.read(session.slots)
        last = session.last
        if last is None:
            return self.record(session, states, session.step_index)
        outputs = {tensor.name: array for tensor, array in zip(self._spec.outputs, last.outputs, strict=True)}
        return self.record(session, states, session.step_index, last.start, outputs)

    async def save(self, sessions: Sequence[Session]) -> list[StatecellError | None]:
        """Writes sessions as they stand, outside of any step, in one round trip. None, or why it could not be, for each.

        For sessions that are ahead of their records, and, where the fence is b"", for those that have none yet.
        """
        followed = [session.fence for session in sessions]
        writes = [Write(session.id, session.fence, self.committed(session).encode()) for session in sessions]
        errors = await self._try(writes)
        for session, fence, write, error in zip(sessions, followed, writes, errors, strict=True):
            if error is None and session.fence == fence:
                session.fence = write.fence
            session.stale |= isinstance(error, SessionContended)
        return errors

    def start_saving(self, sessions: Sequence[Session]) -> "asyncio.Task[None]":
        """Saves the sessions while they may go on; what fails is logged, and left to the next write."""

        async def saving() -> None:
            try:
                for session, error in zip(sessions, await self.save(sessions), strict=True):
                    if error is not None:
                        log.warning("session %s is %d steps ahead of the store: %s", session.id[:16], session.ahead, error)
            finally:
                for session in sessions:
                    session.saving = None

        task = asyncio.get_running_loop().create_task(saving())
        for session in sessions:
            session.saving = task
        return task

    async def restart(self, session: Session) -> StatecellError | None:
        """Writes the session's record as of the model's initial state. None, or why it could not be."""
        record = self.record(session, [s.fresh(session.batch) for s in self._spec.states], 0)
        (error,) = await self._try([Write(session.id, session.fence, record.encode())])
        if error is None:
            session.fence = record.fence
        session.stale |= isinstance(error, SessionContended)
        return error

    async def _try(self, writes: Sequence[Write]) -> list[StatecellError | None]:
        if not writes:
            return []
        try:
            return await self.store.write(writes)
        except StatecellError as error:
            return [error] * len(writes)
        except Exception as error:
            log.exception("a write failed")
            return [StoreUnavailable(f"the write failed: {type(error).__name__}: {error}")] * len(writes)


def _rows(array: Array, axis: int | None, start: int, stop: int) -> Array:
    return array if axis is None else array[(slice(None),) * axis + (slice(start, stop),)]
