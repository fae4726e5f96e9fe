"""Sequences: sessions that clients name themselves, begin and end by flags, and step without counting."""

import contextlib
from collections.abc import Callable, Mapping

from statecell.spec import ModelSpec
from statecell.tensor import Array

from statecell_server.batching.inputs import check_outputs, split_states
from statecell_server.batching.lines import NEXT
from statecell_server.engine.engine import Engine
from statecell_server.errors import InvalidRequest, SessionExists, SessionLost, SessionNotFound, StatecellError
from statecell_server.protocols.oip.reply_cache import ReplyCache
from statecell_server.protocols.oip.request import Answer, Key, SequenceRequest, session_id
from statecell_server.protocols.oip.sequence import Sequence
from statecell_server.protocols.oip.sequence_log import SequenceLog
from statecell_server.sessions.session import Home, Session


class Sequences:
    """`answer = await sequences.step(SequenceRequest("lstm", "", "42", {"x": x}, start=True))`. Belongs to the event loop."""

    def __init__(self, engine: Engine, log: SequenceLog, restarts: Callable[[str], bool] = lambda _: False) -> None:
        """`restarts`: whether, at a model, sequence_start on a live sequence begins it again without being asked to."""
        self._restarts = restarts
        self._engine = engine
        self._known = engine.sessions.known
        self._log = log
        self._sequences: dict[Key, Sequence] = {}
        self.live = self._sequences.get
        self._prune_at = 1024
        self._replies = ReplyCache()

    async def step(self, request: SequenceRequest) -> Answer:
        """Advances the sequence, and begins or ends it where the request says so.

        A step that fails leaves the sequence as it was: not begun if it was the first, not ended if it was to be the last.
        Raises SessionNotFound, SessionExpired, SessionLost, SessionExists, InvalidRequest, and as Engine.create and step do.
        """
        sequence = self._sequences.get(request.key) or self._add(request.key)
        if sequence.busy:
            await sequence.wait()
        sequence.busy = True
        try:
            session = self._known(sequence.session_id) or await self._attached(sequence, request)
            if session is None and (answer := self._replies.repeated(request)) is not None:
                return answer
            index = sequence.repeated(request) if session is not None else None
            if index is None and request.start:
                return await self._begin(sequence, request, session)
            if session is None:
                raise self._absent(request)
            return await self._advance(sequence, session, request, index)
        finally:
            self.leave(request.key, sequence)

    def begin(self, key: Key, request_id: str, home: Home) -> Sequence | None:
        """A sequence of one row, in memory, begun at once on what its model serves now; its first request is in flight.

        None where the id is in use, or more has to be looked at: `step` does it then. Raises as Lifecycle.begin does.
        """
        runner, name = self._engine.models.get(key[0]), session_id(key)
        if (
            runner.home is not home
            or not runner.spec.streamable
            or key in self._sequences
            or self._replies.knows(key, request_id)
            or self._known(name) is not None
            or self._known(session_id(key, durable=True)) is not None
        ):
            return None
        session = self._engine.lifecycle.begin(runner, name)
        sequence = self._add(key)
        sequence.busy = True
        self._log.begin(session.id)
        self._replies.forget(key)
        return sequence

    def end(self, key: Key, sequence: Sequence, request_id: str, content: int, reply: bytes, step_index: int) -> None:
        """The request of this id and content, of one row and time step, was its last one, and `reply` what it gave."""
        session = self._known(sequence.session_id)
        if session is None:
            return
        runner = self._engine.models.of(session)
        outputs = dict(zip(runner.output_names, session.home.replies.open(reply, 1, 1), strict=True))
        self._replies.add(key, request_id, content, Answer(runner, outputs, step_index))
        self.undo(sequence)

    def undo(self, sequence: Sequence) -> None:
        """It has not begun, or is over."""
        session = self._known(sequence.session_id)
        if session is not None:
            self._engine.lifecycle.drop(session)
            self._log.end(session.id)

    def leave(self, key: Key, sequence: Sequence) -> None:
        """A request of the sequence is answered; an id that has no session is not in use any more."""
        sequence.leave()
        if not sequence.busy and self._known(sequence.session_id) is None:
            self._forget(key)

    def _add(self, key: Key) -> Sequence:
        """An id that is not in use; now and then, those are forgotten whose sessions have expired."""
        if len(self._sequences) > self._prune_at:
            for old in [k for k, s in self._sequences.items() if not s.busy and self._known(s.session_id) is None]:
                self._forget(old)
            self._prune_at = 2 * len(self._sequences) + 1024
        sequence = self._sequences[key] = Sequence(session_id(key), self._engine.sessions.budget)
        return sequence

    def _forget(self, key: Key) -> None:
        """The id is not in use any more."""
        sequence = self._sequences.pop(key, None)
        if sequence is not None:
            sequence.forget()
        self._log.end(session_id(key))

    async def _attached(self, sequence: Sequence, request: SequenceRequest) -> Session | None:
        """A durable sequence that is here or in the store."""
        name = session_id(request.key, durable=True)
        session = self._known(name)
        if session is None and (request.durable or not request.start):
            session = await self._stored(name)
        if session is not None:
            sequence.session_id = name
        return session

    async def _stored(self, name: str) -> Session | None:
        """The durable session as the store has it, if it does."""
        try:
            return await self._engine.lifecycle.attach(name, doubt=True)
        except SessionNotFound:
            return None

    async def _begin(self, sequence: Sequence, request: SequenceRequest, live: Session | None) -> Answer:
        """With as many rows as the inputs have, from the initial state that they bring, if any."""
        if live is not None and live.durable:  # unless it has ended at another server, and this one has not heard of it
            live = await self._stored(live.id)
        if live is not None:
            if not request.replace and not self._restarts(request.model):
                raise SessionExists(
                    f"sequence {request.sequence_id!r} of model {request.model!r} is live at step_index "
                    f"{live.step_index}: end it with sequence_end, or send sequence_replace with sequence_start",
                    model=request.model,
                    sequence_id=request.sequence_id,
                )
            await self._delete(live)
        spec = self._engine.models.get(request.model, request.version).spec
        inputs, states = split_states(spec, request.tensors)
        rows = _rows(spec, inputs)
        name = session_id(request.key, durable=request.durable)
        session = await self._engine.lifecycle.create(
            request.model, request.version, batch=rows, state=states, durable=request.durable, session_id=name
        )
        sequence.begin(session.id)
        if not session.durable:
            self._log.begin(session.id)
        self._replies.forget(request.key)
        try:
            return await self._advance(sequence, session, request)
        except BaseException:
            await self._delete(session)
            raise

    async def _advance(
        self, sequence: Sequence, session: Session, request: SequenceRequest, repeated: int | None = None
    ) -> Answer:
        """`repeated`: the step_index of the request that this one repeats, if it does."""
        runner = self._engine.models.of(session)
        if request.version not in ("", runner.version):
            raise InvalidRequest(
                f"sequence {request.sequence_id!r} was started on version {runner.version}, the request says {request.version}",
                field="model_version",
            )
        check_outputs(request.outputs, runner.output_names)
        tensors = split_states(runner.spec, request.tensors)[0] if request.start else request.tensors
        wanted = request.step_index if repeated is None else repeated
        # An index that nobody has claimed is not made up here: by it another server's step would be taken for this one.
        outputs, step_index = await self._engine.steps.step(session.id, tensors, NEXT if wanted is None else wanted)
        sequence.apply(request, step_index - _time_steps(runner.spec, tensors))
        answer = Answer(runner, outputs, step_index)
        if request.end:
            await self._delete(session)
            self._replies.add(request.key, request.request_id, request.content() if request.request_id else 0, answer)
        return answer

    async def _delete(self, session: Session) -> None:
        """Unless somebody else has done so meanwhile."""
        with contextlib.suppress(SessionNotFound):
            await self._engine.lifecycle.delete(session.id)
        self._log.end(session.id)

    def _absent(self, request: SequenceRequest) -> StatecellError:
        """Why there is nothing to go on with."""
        try:
            self._engine.models.get(request.model, request.version)
            self._engine.sessions.get(session_id(request.key))
        except SessionNotFound:
            if session_id(request.key) in self._log:
                return SessionLost(
                    f"sequence {request.sequence_id!r} of model {request.model!r} was in the memory of a server that has "
                    "stopped; begin it again with sequence_start",
                    model=request.model,
                    sequence_id=request.sequence_id,
                )
            what = "has ended" if request.key in self._replies else "was never started here"
            return SessionNotFound(
                f"sequence {request.sequence_id!r} of model {request.model!r} {what}; begin it with sequence_start",
                model=request.model,
                sequence_id=request.sequence_id,
            )
        except StatecellError as error:
            return error
        raise AssertionError("a sequence that is not live has no session")


def _time_steps(spec: ModelSpec, inputs: Mapping[str, Array]) -> int:
    """Of inputs that were accepted."""
    for tensor in spec.inputs:
        if tensor.time_axis is not None:
            steps: int = inputs[tensor.name if tensor.name in inputs else ""].shape[tensor.time_axis]
            return steps
    return 1


def _rows(spec: ModelSpec, inputs: Mapping[str, Array]) -> int:
    """As the inputs show it; whether they agree is checked with the step."""
    for tensor in spec.inputs:
        array = inputs.get(tensor.name)
        if array is not None and tensor.batch_axis is not None and array.ndim == len(tensor.shape):
            rows: int = array.shape[tensor.batch_axis]
            return max(1, rows)
    return 1
