"""Rows: what nearly all requests of the protocol's sequences are, one time step, on a short way through the server."""

import functools
import time
from collections.abc import Callable, Container
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from statecell.oip import inference_pb2 as pb

from statecell_server.access.caller import ANYBODY, Caller
from statecell_server.batching.gathering import GatheredStep, RowLayout
from statecell_server.batching.runner import Runner
from statecell_server.engine.engine import Engine
from statecell_server.errors import StatecellError
from statecell_server.protocols.oip.request import Key
from statecell_server.protocols.oip.sequence import Sequence
from statecell_server.protocols.oip.sequences import Sequences
from statecell_server.protocols.oip.wire import DATATYPES, LONGEST_ID, PARAMETERS
from statecell_server.protocols.protobuf import Seen, field, varint
from statecell_server.sessions.session import Home

MODELS = 256
"""Wires kept at most; what is unloaded is forgotten with the others."""
PIECES = 16_384
"""Requests known at most by all but their id and their data: one or two a sequence."""
PIECE_BYTES = 512
_STEP_INDEX = field(1, b"step_index")
_FINAL = pb.ModelInferResponse()
_FINAL.parameters["triton_final_response"].bool_param = True
FINAL = _FINAL.SerializeToString()

Over = Callable[["Row", bytes | StatecellError], None]


@functools.lru_cache(4096)
def _indexed(step_index: int) -> bytes:
    """The parameter that says it, as a field of the answer."""
    index = b"\x10" + varint(step_index)  # int64_param
    return field(4, b"%b\x12%c%b" % (_STEP_INDEX, len(index), index))


class RowWire:
    """One row of a model on the wire: what must come, and what around its outputs is always the same."""

    def __init__(self, home: Home, layout: RowLayout) -> None:
        self.size = layout.nbytes
        self.end = b"\x3a" + varint(self.size)  # of the form
        self._home = home
        self._input = (layout.name, DATATYPES[layout.dtype.name], list(layout.shape))
        self._shape = layout.shape
        self._outputs = [output.name for output, _, _ in layout.outputs]
        self._sizes = [size for _, _, size in layout.outputs]
        self._head = pb.ModelInferResponse(model_name=home.name, model_version=home.version).SerializeToString()
        tensors = pb.ModelInferResponse()
        for output, shape, _ in layout.outputs:
            tensors.outputs.add(name=output.name, datatype=DATATYPES[np.dtype(output.dtype).name], shape=shape)
        self._tensors = tensors.SerializeToString() + b"\x32" + varint(self._sizes[0])

    def fits(self, request: pb.ModelInferRequest) -> bool:
        """Whether the request is a row of the model, all its data and nothing else raw."""
        if len(request.inputs) != 1 or len(request.raw_input_contents) != 1 or len(request.raw_input_contents[0]) != self.size:
            return False
        tensor, wanted = request.inputs[0], request.outputs
        return (
            request.model_version in ("", self._home.version)
            and (tensor.name, tensor.datatype, tensor.shape[:]) == self._input
            and not tensor.parameters
            and not tensor.HasField("contents")
            and (not wanted or ([t.name for t in wanted] == self._outputs and not any(t.parameters for t in wanted)))
        )

    def content(self, data: bytes, *, start: bool = False, end: bool = False) -> int:
        """As SequenceRequest.content of the same request."""
        return hash((start, end, self._input[0], self._shape, data))

    def answer(self, named: bytes, reply: bytes, step_index: int) -> bytes:
        """A ModelInferResponse, serialised. `named`: its id, as a field, which is that of the request."""
        if len(self._sizes) == 1:
            return b"%b%b%b%b%b" % (self._head, named, _indexed(step_index), self._tensors, reply)
        parts = [self._head, named, _indexed(step_index), self._tensors, reply[: self._sizes[0]]]
        start = self._sizes[0]
        for size in self._sizes[1:]:
            parts += b"\x32", varint(size), reply[start : start + size]
            start += size
        return b"".join(parts)


class Row:
    """A request in flight; as batching.gathering.Row."""

    __slots__ = ("_began", "_data", "_named", "_over", "_request_id", "_sequence", "_wire", "home", "message", "placed")

    placed: tuple[GatheredStep, int]

    def __init__(
        self,
        home: Home,
        wire: RowWire,
        sequence: Sequence,
        message: bytes,
        named: bytes,
        request_id: str,
        data: bytes,
        over: Over,
    ) -> None:
        """`named`: `request_id`, as a field. `over` gets the ModelInferResponse, serialised, or why there is none."""
        self.home, self.message = home, message
        self._wire, self._sequence, self._named, self._request_id = wire, sequence, named, request_id
        self._data, self._over = data, over
        self._began = time.perf_counter_ns()

    @property
    def ns(self) -> int:
        """Since it came."""
        return time.perf_counter_ns() - self._began

    def _content(self) -> int:
        """What tells it from another request of its id."""
        return self._wire.content(self._data)

    def moved(self, reply: bytes, step_index: int) -> None:
        if self._request_id:
            self._sequence.remember(self._request_id, step_index - 1, self._content())
        self._sequence.leave()
        self._over(self, self._wire.answer(self._named, reply, step_index))

    def refused(self, error: StatecellError) -> None:
        self._sequence.leave()
        self._over(self, error)

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        step, position = self.placed
        step.cancel(position)


class EdgeRow(Row):
    """One that begins its sequence, ends it, or both."""

    __slots__ = ("_form", "_sequences")

    def at(self, sequences: Sequences, form: "Form") -> "EdgeRow":
        """Of which sequences, and what it says of its own."""
        self._sequences, self._form = sequences, form
        return self

    def _content(self) -> int:
        return self._wire.content(self._data, start=self._form.start, end=self._form.end)

    def moved(self, reply: bytes, step_index: int) -> None:
        if not self._form.end:
            super().moved(reply, step_index)
            return
        content = self._content() if self._request_id else 0
        self._sequences.end(self._form.key, self._sequence, self._request_id, content, reply, step_index)
        self._sequences.leave(self._form.key, self._sequence)
        self._over(self, self._wire.answer(self._named, reply, step_index))

    def refused(self, error: StatecellError) -> None:
        if self._form.start:
            self._sequences.undo(self._sequence)
        self._sequences.leave(self._form.key, self._sequence)
        self._over(self, error)


class Form(NamedTuple):
    """What a request that is a row says beside its id and its data."""

    key: Key
    home: Home
    start: bool
    end: bool


class Rows:
    """Finds out what is a row, and gathers it; what is not, the general way takes. Belongs to the event loop.

    A request is cut into what names the model, its id, its form and its data; the same form is read once.
    """

    def __init__(self, engine: Engine, sequences: Sequences, own: Callable[[Key], bool] = lambda _: True) -> None:
        """`own`: whether a sequence is to live in this process."""
        self._own = own
        self._models = engine.models
        self._known = engine.sessions.known
        self._gather = engine.steps.gather
        self._sequences = sequences
        self._live = sequences.live
        self._wires: Seen[Home, RowWire] = Seen(MODELS)
        self._sizes: Seen[bytes, int] = Seen(MODELS)  # of a row's data, by what names the model
        self._forms: Seen[tuple[bytes, bytes, str], Form | None] = Seen(PIECES)  # None: no row, whatever its data

    def begin(self, message: bytes, over: Over, caller: Caller, behind: Container[Key] = ()) -> Row | None:
        """A ModelInferRequest, serialised; the row, where it is one, and on its way; none of a sequence in `behind`."""
        try:
            at = _after(message, 0, 0x0A)
            if message[at] == 0x12:
                at = _after(message, at, 0x12)
            end = _after(message, at, 0x1A) if message[at] == 0x1A else at
            request_id = message[at + 2 : end].decode()
        except (IndexError, ValueError):
            return None
        form = self._find(message[:at], message[end:], caller)
        return None if form is None or form.key in behind else self._begin(form, message, message[at:end], request_id, over)

    def _find(self, model: bytes, rest: bytes, caller: Caller) -> Form | None:
        """What a row says, by what names the model and what follows the id; None: it is no row."""
        size = self._sizes.get(model)
        if size is not None:
            form = (model, rest[: len(rest) - size], caller.tag)
            if form in self._forms:
                return self._forms[form]
        return self._read(model, rest, caller)

    def _begin(self, form: Form, message: bytes, named: bytes, request_id: str, over: Over) -> Row | None:
        key, home, start, end = form
        try:
            sequence = self._sequences.begin(key, request_id, home) if start else self._live(key)
        except StatecellError:
            return None  # which the other way will say
        if sequence is None or (sequence.busy and not start):
            return None
        session = self._known(sequence.session_id)
        if session is None or session.home is not home or session.durable or sequence.remembers(request_id):
            return None
        wire = self._wires.get(home) or self._wire(self._models.of(session))
        if wire is None:
            return None
        data = message[len(message) - wire.size :]
        if start or end:
            row: Row = EdgeRow(home, wire, sequence, message, named, request_id, data, over).at(self._sequences, form)
        else:
            row = Row(home, wire, sequence, message, named, request_id, data, over)
        try:
            placed = self._gather(session, session.step_index, data, row)
        except StatecellError:  # the same
            placed = None
        if placed is None:
            if start:
                self._sequences.undo(sequence)
                self._sequences.leave(key, sequence)
            return None
        row.placed = placed
        sequence.busy = True
        return row

    def _read(self, model: bytes, rest: bytes, caller: Caller) -> Form | None:
        """What the request says but its id; None: it is no row."""
        try:
            request = pb.ModelInferRequest.FromString(model + rest)
            said = _said(request, caller)
            runner = None if said is None else self._runner(*said)
        except (DecodeError, StatecellError):
            return None
        wire = None if runner is None else self._wires.get(runner.home) or self._wire(runner)
        if said is None or runner is None or wire is None:
            return None
        self._sizes.keep(model, wire.size)
        form = rest[: len(rest) - wire.size]
        fits = not request.id and form.endswith(wire.end) and wire.fits(request)
        found = Form(said[0], runner.home, *said[1:]) if fits and self._own(said[0]) else None
        return self._forms.keep((model, form, caller.tag), found) if len(form) <= PIECE_BYTES else None

    def _runner(self, key: Key, start: bool, _: bool) -> Runner | None:
        """Where the sequence is, or is to begin. Raises ModelNotFound."""
        if start:
            return self._models.get(key[0])
        sequence = self._live(key)
        session = None if sequence is None else self._known(sequence.session_id)
        return None if session is None else self._models.of(session)

    def _wire(self, runner: Runner) -> RowWire | None:
        layout = runner.scheduler.layout
        return None if layout is None else self._wires.keep(runner.home, RowWire(runner.home, layout))


def _after(message: bytes, at: int, tag: int) -> int:
    """Where the short field of this tag ends that begins at `at`. Raises IndexError, ValueError."""
    size = message[at + 1]
    if message[at] != tag or size > 127:
        raise ValueError("another field, or a long one")
    return at + 2 + size


def _said(request: pb.ModelInferRequest, caller: Caller = ANYBODY) -> tuple[Key, bool, bool] | None:
    """The sequence that the request is of, and whether it begins and ends it, where it says nothing else of it."""
    sequence_id: object = None
    start = end = False
    for name, value in request.parameters.items():
        kind = value.WhichOneof("parameter_choice")
        if name not in PARAMETERS:  # of no meaning here
            continue
        if kind is None or kind not in PARAMETERS[name][0] or name == "step_index":
            return None
        if name == "sequence_id":
            sequence_id = getattr(value, kind)
        elif name == "sequence_start":
            start = value.bool_param
        elif name == "sequence_end":
            end = value.bool_param
        elif value.bool_param and name != "sequence_replace":  # which says something with a live sequence alone
            return None
    named = str(sequence_id) if sequence_id else ""
    return ((request.model_name, named + caller.tag), start, end) if 0 < len(named) <= LONGEST_ID else None
