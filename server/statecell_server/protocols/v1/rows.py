"""Rows: what nearly all requests of statecell.v1 are, one time step of one session, on a short way through the server."""

from abc import abstractmethod
from collections.abc import Callable

import numpy as np
from google.protobuf.message import DecodeError
from grpc_status import rpc_status
from statecell.tensor import pack
from statecell.v1 import tensor_pb2

from statecell_server.access.caller import Caller
from statecell_server.batching.gathering import GatheredStep, RowLayout
from statecell_server.engine.engine import Engine
from statecell_server.errors import SessionContended, StatecellError
from statecell_server.protocols.protobuf import Seen, field, read_varint, varint
from statecell_server.protocols.status import write_status
from statecell_server.sessions.session import Home, Session
from statecell_server.transport.exchange import Direct

MODELS = 256
"""Wires kept at most; what is unloaded is forgotten with the others."""
PIECES = 64
"""Ways to write the same tensor that are known of a model at most."""
PIECE_BYTES = 1024


class RowWire:
    """One row of a model on the wire: what must come, and what around its outputs is always the same."""

    def __init__(self, layout: RowLayout) -> None:
        tensor = pack("", np.zeros(layout.shape, layout.dtype))
        self._names, self._dtype, self._shape, self._size = ("", layout.name), tensor.dtype, tensor.shape[:], layout.nbytes
        self._end = b"\x22" + varint(self._size)
        self._seen: Seen[bytes, bool] = Seen(PIECES)
        self._pieces: list[tuple[bytes, int]] = []  # in front of each output's data, without the field's number; its size
        for output, shape, size in layout.outputs:
            message = pack(output.name, np.zeros(shape, output.dtype)).SerializeToString()  # data is its last field
            self._pieces.append((varint(len(message)) + message[: len(message) - size], size))

    def read(self, tensor: bytes) -> bytes | None:
        """The data of a serialised Tensor, its last field; None where it is not such a row."""
        cut = len(tensor) - self._size
        piece = tensor[:cut] if cut > 0 else b""
        fits = self._seen.get(piece)
        if fits is None:
            fits = self._fits(piece, tensor)
            if len(piece) <= PIECE_BYTES:
                self._seen.keep(piece, fits)
        return tensor[cut:] if fits else None

    def _fits(self, piece: bytes, tensor: bytes) -> bool:
        """Whether whatever follows `piece` is the data of a row."""
        if not piece.endswith(self._end):
            return False
        try:
            parsed = tensor_pb2.Tensor.FromString(tensor)
        except DecodeError:
            return False
        fits = parsed.dtype == self._dtype and parsed.name in self._names and parsed.shape == self._shape
        return fits and parsed.data == tensor[len(piece) :]

    def outputs(self, number: int, reply: bytes) -> bytes:
        """The outputs as the message's field of this number."""
        if len(self._pieces) == 1:
            return b"%c%b%b" % (number << 3 | 2, self._pieces[0][0], reply)
        parts, start = [], 0
        for piece, size in self._pieces:
            parts.append(b"%c%b%b" % (number << 3 | 2, piece, reply[start : start + size]))
            start += size
        return b"".join(parts)


class Row:
    """A step in flight; as batching.gathering.Row."""

    __slots__ = ("placed", "wire")

    wire: RowWire
    placed: tuple[GatheredStep, int]

    @abstractmethod
    def moved(self, reply: bytes, step_index: int) -> None:
        """The answer."""

    @abstractmethod
    def refused(self, error: StatecellError) -> None:
        """The session is as it was."""

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        step, position = self.placed
        step.cancel(position)


class Rows:
    """Finds out what is a row, and gathers it; what is not, the general way takes. Belongs to the event loop."""

    def __init__(self, engine: Engine) -> None:
        self._known = engine.sessions.known
        self._models = engine.models
        self._gather = engine.steps.gather
        self._wires: Seen[Home, RowWire] = Seen(MODELS)

    def step(self, message: bytes, call: Direct) -> bool:
        """A StepRequest, serialised; whether it is a row, and on its way."""
        try:
            session_id, at = _text(message, 0, 0x0A)
            tensor, at = _bytes(message, at, 0x12)
            index = None
            if at < len(message):
                index, at = _number(message, at, 0x18)
        except (IndexError, ValueError):
            return False
        row = UnaryRow(call)
        if at != len(message) or not self._begin(row, session_id, tensor, index, call.caller):
            return False
        call.when_cancelled(row.cancel)
        return True

    def streamed(self, message: bytes, stream: "Answers", caller: Caller) -> "StreamedRow | None":
        """A StreamStepsRequest, serialised; the row, where it is one, and on its way."""
        number, index, at = 0, None, 0
        try:
            if message[0] == 0x08:
                number, at = read_varint(message, 1)
            session_id, at = _text(message, at, 0x12)
            tensor, at = _bytes(message, at, 0x1A)
            if at < len(message):
                size, at = _number(message, at, 0x22)  # packed
                start = at
                index, at = read_varint(message, at)
                if at - start != size:
                    return None
        except (IndexError, ValueError):
            return None
        row = StreamedRow(stream, message, number, session_id)
        return row if at == len(message) and self._begin(row, session_id, tensor, index, caller) else None

    def _begin(self, row: Row, session_id: str, tensor: bytes, step_index: int | None, caller: Caller) -> bool:
        session = self._known(session_id)
        if session is None or not caller.owns(session_id):
            return False
        wire = self._wires.get(session.home) or self._wire(session)
        if wire is None or (data := wire.read(tensor)) is None:
            return False
        try:
            placed = self._gather(session, step_index, data, row)
        except StatecellError:
            return False  # which the other way will say
        if placed is None:
            return False
        row.wire, row.placed = wire, placed
        return True

    def _wire(self, session: Session) -> RowWire | None:
        layout = self._models.of(session).scheduler.layout
        return None if layout is None else self._wires.keep(session.home, RowWire(layout))


class UnaryRow(Row):
    """Of a Step call."""

    __slots__ = ("_call",)

    def __init__(self, call: Direct) -> None:
        self._call = call

    def moved(self, reply: bytes, step_index: int) -> None:
        self._call.reply(b"%b\x10%b" % (self.wire.outputs(1, reply), varint(step_index)))

    def refused(self, error: StatecellError) -> None:
        if isinstance(error, SessionContended):
            self._call.serve()  # another server has moved the session on: its record decides
        else:
            self._call.refuse(rpc_status.to_status(write_status(error)))


Answers = Callable[["StreamedRow", bytes | StatecellError], None]


class StreamedRow(Row):
    """Of a message of a stream."""

    __slots__ = ("_answer", "_number", "_session_id", "message")

    def __init__(self, answer: Answers, message: bytes, number: int, session_id: str) -> None:
        """`answer` gets the StreamStepsResponse, serialised, or why there is none. `number`: the message's id."""
        self.message = message
        self._answer, self._number, self._session_id = answer, number, session_id

    def moved(self, reply: bytes, step_index: int) -> None:
        index = varint(step_index)
        named = field(2, self._session_id.encode())
        outputs = self.wire.outputs(3, reply)
        numbered = b"\x08" + varint(self._number) if self._number else b""
        self._answer(self, b"%b%b%b\x22%c%b" % (numbered, named, outputs, len(index), index))

    def refused(self, error: StatecellError) -> None:
        self._answer(self, error)


def _bytes(message: bytes, at: int, tag: int) -> tuple[bytes, int]:
    """The content of the field with this tag that begins at `at`, and where the next begins. Raises IndexError, ValueError."""
    if message[at] != tag:
        raise ValueError("another field")
    size, start = read_varint(message, at + 1)
    at = start + size
    if at > len(message):
        raise IndexError("the field breaks off")
    return message[start:at], at


def _text(message: bytes, at: int, tag: int) -> tuple[str, int]:
    content, at = _bytes(message, at, tag)
    return content.decode(), at


def _number(message: bytes, at: int, tag: int) -> tuple[int, int]:
    if message[at] != tag:
        raise ValueError("another field")
    return read_varint(message, at + 1)
