"""StepStream: the messages of one StreamSteps call."""

import functools
from collections.abc import Sequence

from statecell.v1 import inference_pb2 as pb

from statecell_server.access.caller import Caller
from statecell_server.engine.engine import Engine
from statecell_server.engine.ticket import Ticket
from statecell_server.errors import SessionContended, StatecellError
from statecell_server.protocols.stream import MessageStream
from statecell_server.protocols.v1.rows import Rows, StreamedRow
from statecell_server.protocols.v1.wire import read_tensors, write_error, write_tensors


class StepStream(MessageStream):
    """Submits each message, and answers it when its ticket is over."""

    def __init__(self, engine: Engine, rows: Rows, caller: Caller) -> None:
        super().__init__()
        self.received = 0  # messages so far
        self._engine = engine
        self._rows = rows
        self._caller = caller

    def receive_bytes(self, message: bytes) -> bool:
        """Whether the message was one that need not be parsed, and is on its way."""
        row = self._rows.streamed(message, self._row_over, self._caller)
        if row is None:
            return False
        self.received += 1
        self._pending.add(row)
        return True

    def receive(self, message: pb.StreamStepsRequest) -> None:
        self.received += 1
        self._submit(message)

    def _row_over(self, row: StreamedRow, answer: bytes | StatecellError) -> None:
        self._pending.discard(row)
        if isinstance(answer, bytes):
            self._answer(answer)
            return
        message = pb.StreamStepsRequest.FromString(row.message)
        if isinstance(answer, SessionContended):  # another server has moved the session on: its record decides
            self._submit(message)
        else:
            self._answer(pb.StreamStepsResponse(id=message.id, errors=[write_error(0, message.session_ids[0], answer)]))

    def _submit(self, message: pb.StreamStepsRequest) -> None:
        indexes: Sequence[int | None] = message.step_indexes or [None] * len(message.session_ids)
        try:
            tensors = read_tensors(message.inputs)
            over = functools.partial(self._over, message)
            ticket = self._engine.steps.submit(message.session_ids, tensors, indexes, over, self._caller)
        except StatecellError as error:
            ids = message.session_ids or [""]
            self._answer(pb.StreamStepsResponse(id=message.id, errors=[write_error(i, ids[i], error) for i in range(len(ids))]))
        else:
            if not ticket.over:
                self._pending.add(ticket)

    def _over(self, message: pb.StreamStepsRequest, ticket: Ticket) -> None:
        self._pending.discard(ticket)
        positions, outputs, indexes = ticket.outcome()
        ids = message.session_ids
        reply = pb.StreamStepsResponse(id=message.id)
        reply.session_ids.extend(ids if len(positions) == len(ids) else [ids[position] for position in positions])
        write_tensors(zip(ticket.output_names, outputs, strict=False), reply.outputs)
        reply.step_indexes.extend(indexes)
        for position, error in sorted(ticket.errors.items()):
            reply.errors.append(write_error(position, ids[position], error))
        self._answer(reply)
