"""Sequences: sessions that clients name themselves, begin and end by flags, and step without counting."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from statecell.spec import ModelSpec
from statecell.tensor import Array

from statecell_server.engine import Engine
from statecell_server.errors import InvalidRequest, SessionExists, SessionNotFound, StatecellError
from statecell_server.inputs import check_outputs, split_states
from statecell_server.runner import Runner
from statecell_server.sessions import Session
from statecell_server.ticket import Ticket

REMEMBERED_IDS = 16
"""Request ids of a live sequence that are recognised when they come again, beside those in flight."""
ENDED_BYTES = 16 << 20
"""Memory for the last answers of sequences that have ended, in case their requests come again."""
ENTRY_BYTES = 256

Key = tuple[str, str]  # model, sequence id


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a sequence."""

    model: str
    version: str  # "": the newest, or the one that the sequence was started on
    sequence_id: str
    tensors: Mapping[str, Array]
    request_id: str = ""  # "": a request like no other
    start: bool = False
    end: bool = False
    replace: bool = False  # `start` ends a live sequence of this id, which would be an error otherwise
    durable: bool = False
    step_index: int | None = None  # None: wherever the sequence stands
    outputs: tuple[str, ...] = ()  # those that will be asked for; they must exist

    @property
    def key(self) -> Key:
        return self.model, self.sequence_id

    @property
    def session_id(self) -> str:
        return f"sequence/{self.model}/{self.sequence_id}"

    def content(self) -> int:
        """What tells this request from another one of the same id."""
        return hash((self.start, self.end, *((name, a.shape, a.tobytes()) for name, a in sorted(self.tensors.items()))))


@dataclass(frozen=True, slots=True)
class Answer:
    """The outputs in the spec's order, and the sequence's step_index after them."""

    runner: Runner
    outputs: list[Array]
    step_index: int


@dataclass(slots=True)
class Sequence:
    """A sequence id that is in use."""

    session: Session | None = None
    used: dict[str, tuple[int, int]] = field(default_factory=dict)  # by request id: (step_index before it, its content)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # requests are placed in the order of their arrival
    begun: bool = False  # whether a step was answered
    users: int = 0  # requests that are not answered

    @property
    def live(self) -> Session | None:
        """Its session, unless that was deleted or has expired."""
        return self.session if self.session is not None and self.session.ended is None else None

    def repeated(self, session: Session, turn: Turn) -> int | None:
        """The step_index of the request that this one repeats, if it does. Raises InvalidRequest."""
        index, content = self.used.get(turn.request_id, (session.next_index, 0))
        if index >= session.next_index:  # never seen, or it failed
            return None
        if content != turn.content():
            raise InvalidRequest(
                f"request id {turn.request_id!r} was used for another step of sequence {turn.sequence_id!r} before; "
                "give each request its own id, or none",
                field="id",
            )
        return index

    def use(self, session: Session, turn: Turn, index: int) -> None:
        """The turn takes the step at `index`."""
        while self.used and next(reversed(self.used.values()))[0] >= index:  # failed, and this one comes in its place
            self.used.popitem()
        if turn.request_id:
            self.used[turn.request_id] = index, turn.content()
        while len(self.used) > REMEMBERED_IDS and (oldest := next(iter(self.used.items())))[1][0] < session.step_index:
            del self.used[oldest[0]]


class Pending:
    """A step that was placed."""

    def __init__(self, engine: Engine, session: Session, tensors: Mapping[str, Array], index: int) -> None:
        """Raises what is wrong with the step."""
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ticket = engine.submit([session.id], tensors, [index], self._settle)

    def _settle(self, _: Ticket) -> None:
        if not self._over.done():
            self._over.set_result(None)

    async def answer(self) -> Answer:
        """When the step is done. Raises its error."""
        try:
            await self._over
        except asyncio.CancelledError:
            self._ticket.cancel()
            raise
        if self._ticket.errors:
            raise self._ticket.errors[0]
        _, outputs, indexes = self._ticket.outcome()
        return Answer(self._ticket.runner, outputs, indexes[0])


class Sequences:
    """`answer = await Sequences(engine).step(Turn("lstm", "", "42", {"x": x}, start=True))`. Belongs to the event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sequences: dict[Key, Sequence] = {}
        self._prune_at = 1024
        self._ended: OrderedDict[Key, tuple[str, int, Answer]] = OrderedDict()  # request id, its content, its answer
        self._ended_bytes = 0

    async def step(self, turn: Turn) -> Answer:
        """Advances the sequence, and begins or ends it where the turn says so.

        A step that fails leaves the sequence as it was: not begun if it was the first, not ended if it was to be the last.
        Raises SessionNotFound, SessionExpired, SessionExists, InvalidRequest, and as Engine.create and Engine.step do.
        """
        sequence = self._sequences.get(turn.key)
        if sequence is None:
            sequence = self._sequences[turn.key] = Sequence()
        sequence.users += 1
        try:
            async with sequence.turn:
                old = self._ended.get(turn.key) if sequence.live is None else None
                if old is not None and turn.request_id and old[:2] == (turn.request_id, turn.content()):
                    return old[2]
                pending = self._place(sequence, turn)
                if turn.end:
                    return self._end(sequence, turn, await pending.answer())
            answer = await pending.answer()
            sequence.begun = True
            return answer
        finally:
            sequence.users -= 1
            self._tidy(sequence, turn)

    def _place(self, sequence: Sequence, turn: Turn) -> Pending:
        session, tensors = sequence.live, turn.tensors
        index = sequence.repeated(session, turn) if session is not None else None
        if session is not None and turn.start and index is None:
            if not turn.replace:
                raise SessionExists(
                    f"sequence {turn.sequence_id!r} of model {turn.model!r} is live at step_index "
                    f"{session.step_index}: end it with sequence_end, or send sequence_replace with sequence_start",
                    model=turn.model,
                    sequence_id=turn.sequence_id,
                )
            self._engine.delete(session.id)
            session = None
        if session is None:
            if not turn.start:
                raise self._absent(turn)
            session, tensors = self._begin(sequence, turn)
        if turn.version not in ("", session.version):
            raise InvalidRequest(
                f"sequence {turn.sequence_id!r} was started on version {session.version}, the request says {turn.version}",
                field="model_version",
            )
        spec = self._engine.runner(session).spec
        check_outputs(turn.outputs, [t.name for t in spec.outputs])
        if index is not None:
            return Pending(self._engine, session, split_states(spec, tensors)[0], index)
        index = session.next_index if turn.step_index is None else turn.step_index
        pending = Pending(self._engine, session, tensors, index)
        sequence.use(session, turn, index)
        return pending

    def _begin(self, sequence: Sequence, turn: Turn) -> tuple[Session, Mapping[str, Array]]:
        """The new session, with as many rows as the inputs have, and the inputs without the initial state."""
        spec = self._engine.models.get(turn.model, turn.version).spec
        inputs, states = split_states(spec, turn.tensors)
        sequence.session = self._engine.create(
            turn.model, turn.version, batch=_rows(spec, inputs), state=states, durable=turn.durable, session_id=turn.session_id
        )
        sequence.begun = False
        sequence.used.clear()
        self._forget_end(turn.key)
        return sequence.session, inputs

    def _end(self, sequence: Sequence, turn: Turn, answer: Answer) -> Answer:
        if sequence.live is not None:
            self._engine.delete(sequence.live.id)
        self._ended[turn.key] = turn.request_id, turn.content() if turn.request_id else 0, answer
        self._ended_bytes += _size(answer)
        while self._ended_bytes > ENDED_BYTES:
            self._forget_end(next(iter(self._ended)))
        return answer

    def _forget_end(self, key: Key) -> None:
        old = self._ended.pop(key, None)
        if old is not None:
            self._ended_bytes -= _size(old[2])

    def _absent(self, turn: Turn) -> StatecellError:
        """Why there is nothing to go on with."""
        try:
            self._engine.models.get(turn.model, turn.version)
            self._engine.sessions.get(turn.session_id)
        except SessionNotFound:
            what = "has ended" if turn.key in self._ended else "was never started here"
            return SessionNotFound(
                f"sequence {turn.sequence_id!r} of model {turn.model!r} {what}; begin it with sequence_start",
                model=turn.model,
                sequence_id=turn.sequence_id,
            )
        except StatecellError as error:
            return error
        raise AssertionError("a sequence that is not live has no session")

    def _tidy(self, sequence: Sequence, turn: Turn) -> None:
        """A sequence whose first step failed has not begun; one that nobody uses is forgotten."""
        session = sequence.live
        if session is not None and not sequence.begun and not any(step.waiters for step in session.pending or ()):
            self._engine.delete(session.id)
        if not sequence.users and sequence.live is None:
            self._sequences.pop(turn.key, None)
        if len(self._sequences) > self._prune_at:  # sessions that have expired
            self._sequences = {k: s for k, s in self._sequences.items() if s.users or s.live is not None}
            self._prune_at = 2 * len(self._sequences) + 1024


def _rows(spec: ModelSpec, inputs: Mapping[str, Array]) -> int:
    """As the inputs show it; whether they agree is checked with the step."""
    for tensor in spec.inputs:
        array = inputs.get(tensor.name)
        if array is not None and tensor.batch_axis is not None and array.ndim == len(tensor.shape):
            rows: int = array.shape[tensor.batch_axis]
            return max(1, rows)
    return 1


def _size(answer: Answer) -> int:
    return ENTRY_BYTES + sum(array.nbytes for array in answer.outputs)
