"""Sequences: sessions that clients name themselves, begin and end by flags, and step without counting."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from statecell.spec import ModelSpec
from statecell.tensor import Array

from statecell_server.ended import Ended
from statecell_server.engine import Engine
from statecell_server.errors import InvalidRequest, SessionExists, SessionLost, SessionNotFound, StatecellError, StepOutOfOrder
from statecell_server.inputs import check_outputs, split_states
from statecell_server.roll import Roll
from statecell_server.sessions import Session
from statecell_server.turn import Answer, Key, Turn, session_id

REMEMBERED_IDS = 16
"""Request ids of a live sequence that are recognised when they come again."""


@dataclass(slots=True)
class Sequence:
    """A sequence id that is in use."""

    applied: dict[str, tuple[int, int]] = field(default_factory=dict)  # by request id: (step_index before it, its content)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # one request after the other, in the order of their arrival
    users: int = 0  # requests that are not answered

    def repeated(self, turn: Turn) -> int | None:
        """The step_index of the request that this one repeats, if it does. Raises InvalidRequest."""
        index, content = self.applied.get(turn.request_id, (None, 0))
        if index is not None and content != turn.content():
            raise InvalidRequest(
                f"request id {turn.request_id!r} was used for another step of sequence {turn.sequence_id!r}; "
                "give each request its own id, or none",
                field="id",
            )
        return index

    def apply(self, turn: Turn, index: int) -> None:
        """The turn was the step at `index`."""
        if turn.request_id:
            self.applied[turn.request_id] = index, turn.content()
            if len(self.applied) > REMEMBERED_IDS:
                del self.applied[next(iter(self.applied))]


class Sequences:
    """`answer = await sequences.step(Turn("lstm", "", "42", {"x": x}, start=True))`. Belongs to the event loop."""

    def __init__(self, engine: Engine, roll: Roll) -> None:
        self._engine = engine
        self._roll = roll
        self._sequences: dict[Key, Sequence] = {}
        self._prune_at = 1024
        self._ended = Ended()

    async def step(self, turn: Turn) -> Answer:
        """Advances the sequence, and begins or ends it where the turn says so.

        A step that fails leaves the sequence as it was: not begun if it was the first, not ended if it was to be the last.
        Raises SessionNotFound, SessionExpired, SessionLost, SessionExists, InvalidRequest, and as Engine.create and step do.
        """
        sequence = self._sequences.get(turn.key)
        if sequence is None:
            sequence = self._sequences[turn.key] = Sequence()
        sequence.users += 1
        try:
            async with sequence.turn:
                return await self._step(sequence, turn)
        finally:
            sequence.users -= 1
            self._prune(sequence, turn)

    def _known(self, key: Key) -> Session | None:
        """The session that is behind the sequence, if it is here."""
        known = self._engine.sessions.known
        return known(session_id(key)) or known(session_id(key, durable=True))

    async def _step(self, sequence: Sequence, turn: Turn) -> Answer:
        session = self._known(turn.key) or await self._attached(turn)
        if session is not None and (index := sequence.repeated(turn)) is not None:
            return await self._answer(sequence, session, turn, index)
        if session is None and (ended := self._ended.repeated(turn)) is not None:
            return ended
        if turn.start:
            return await self._begin(sequence, turn, session)
        if session is None:
            raise self._absent(turn)
        if turn.version not in ("", session.version):
            raise InvalidRequest(
                f"sequence {turn.sequence_id!r} was started on version {session.version}, the request says {turn.version}",
                field="model_version",
            )
        return await self._go_on(sequence, session, turn)

    async def _attached(self, turn: Turn) -> Session | None:
        """A durable sequence that is in the store."""
        if turn.start and not turn.durable:
            return None
        try:
            return await self._engine.attach(session_id(turn.key, durable=True))
        except SessionNotFound:
            return None

    async def _begin(self, sequence: Sequence, turn: Turn, live: Session | None) -> Answer:
        """With as many rows as the inputs have, from the initial state that they bring, if any."""
        if live is not None:
            if not turn.replace:
                raise SessionExists(
                    f"sequence {turn.sequence_id!r} of model {turn.model!r} is live at step_index "
                    f"{live.step_index}: end it with sequence_end, or send sequence_replace with sequence_start",
                    model=turn.model,
                    sequence_id=turn.sequence_id,
                )
            await self._delete(live)
        spec = self._engine.models.get(turn.model, turn.version).spec
        inputs, states = split_states(spec, turn.tensors)
        rows = _rows(spec, inputs)
        name = session_id(turn.key, durable=turn.durable)
        session = await self._engine.create(
            turn.model, turn.version, batch=rows, state=states, durable=turn.durable, session_id=name
        )
        sequence.applied.clear()
        if not session.durable:
            self._roll.begin(session.id)
        self._ended.forget(turn.key)
        try:
            return await self._go_on(sequence, session, turn)
        except BaseException:
            await self._delete(session)
            raise

    async def _go_on(self, sequence: Sequence, session: Session, turn: Turn) -> Answer:
        index = session.next_index if turn.step_index is None else turn.step_index
        try:
            return await self._answer(sequence, session, turn, index)
        except StepOutOfOrder:
            moved = self._known(turn.key)
            if turn.step_index is not None or moved is None or moved.next_index == index:
                raise
            return await self._go_on(sequence, moved, turn)  # another server has moved it on

    async def _answer(self, sequence: Sequence, session: Session, turn: Turn, index: int) -> Answer:
        runner = self._engine.runner(session)
        check_outputs(turn.outputs, runner.output_names)
        tensors = split_states(runner.spec, turn.tensors)[0] if turn.start else turn.tensors
        answer = Answer(runner, *await self._engine.step(session.id, tensors, index))
        sequence.apply(turn, index)
        if turn.end:
            await self._delete(session)
            self._ended.add(turn, answer)
        return answer

    async def _delete(self, session: Session) -> None:
        """Unless somebody else has done so meanwhile."""
        with contextlib.suppress(SessionNotFound):
            await self._engine.delete(session.id)
        self._roll.end(session.id)

    def _absent(self, turn: Turn) -> StatecellError:
        """Why there is nothing to go on with."""
        try:
            self._engine.models.get(turn.model, turn.version)
            self._engine.sessions.get(session_id(turn.key))
        except SessionNotFound:
            if session_id(turn.key) in self._roll:
                return SessionLost(
                    f"sequence {turn.sequence_id!r} of model {turn.model!r} was in the memory of a server that has stopped; "
                    "begin it again with sequence_start",
                    model=turn.model,
                    sequence_id=turn.sequence_id,
                )
            what = "has ended" if turn.key in self._ended else "was never started here"
            return SessionNotFound(
                f"sequence {turn.sequence_id!r} of model {turn.model!r} {what}; begin it with sequence_start",
                model=turn.model,
                sequence_id=turn.sequence_id,
            )
        except StatecellError as error:
            return error
        raise AssertionError("a sequence that is not live has no session")

    def _prune(self, sequence: Sequence, turn: Turn) -> None:
        """Forgets ids that are not in use any more: this one, and now and then those that have expired."""
        if not sequence.users and self._known(turn.key) is None:
            self._sequences.pop(turn.key, None)
        if len(self._sequences) > self._prune_at:
            for key in [k for k, s in self._sequences.items() if not s.users and self._known(k) is None]:
                del self._sequences[key]
                self._roll.end(session_id(key))
            self._prune_at = 2 * len(self._sequences) + 1024


def _rows(spec: ModelSpec, inputs: Mapping[str, Array]) -> int:
    """As the inputs show it; whether they agree is checked with the step."""
    for tensor in spec.inputs:
        array = inputs.get(tensor.name)
        if array is not None and tensor.batch_axis is not None and array.ndim == len(tensor.shape):
            rows: int = array.shape[tensor.batch_axis]
            return max(1, rows)
    return 1
