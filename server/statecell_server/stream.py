"""StepStream: one StreamSteps call, many messages in flight."""

import asyncio
import functools
from collections import deque
from collections.abc import Sequence
from typing import Any

import grpc
from statecell.v1 import inference_pb2 as pb

from statecell_server.engine import Engine
from statecell_server.errors import StatecellError
from statecell_server.ticket import Ticket
from statecell_server.wire import read_tensors, write_error, write_tensors

WINDOW = 1024
"""Messages of one stream in flight; beyond it the server stops reading, and the client's writes wait."""


class StepStream:
    """Reads messages, submits them, and writes each reply as soon as it can be given."""

    def __init__(self, engine: Engine, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self.read = 0  # messages so far
        self._engine = engine
        self._context = context
        self._open: set[Ticket] = set()
        self._ready: deque[pb.StreamStepsResponse] = deque()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    async def serve(self) -> None:
        """Until the client has closed its side and all is answered."""
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(lambda _: self._changed.set())
        try:
            while self._ready or self._open or not self._reader.done():
                if self._ready:
                    await self._context.write(self._ready.popleft())
                    self._room.set()
                else:
                    self._changed.clear()
                    await self._changed.wait()
            if not self._reader.cancelled():
                self._reader.result()
        finally:
            self._reader.cancel()
            for ticket in self._open:
                ticket.cancel()

    def drain(self) -> None:
        """No more reading; what was read is answered."""
        self._reader.cancel()

    async def _read(self) -> None:
        while (message := await self._context.read()) is not grpc.aio.EOF:
            self.read += 1
            self._submit(message)
            while len(self._open) + len(self._ready) >= WINDOW:
                self._room.clear()
                await self._room.wait()

    def _submit(self, message: pb.StreamStepsRequest) -> None:
        indexes: Sequence[int | None] = message.step_indexes or [None] * len(message.session_ids)
        try:
            tensors = read_tensors(message.inputs)
            ticket = self._engine.submit(message.session_ids, tensors, indexes, functools.partial(self._answer, message))
        except StatecellError as error:
            ids = message.session_ids or [""]
            self._reply(pb.StreamStepsResponse(id=message.id, errors=[write_error(i, ids[i], error) for i in range(len(ids))]))
        else:
            if not ticket.over:
                self._open.add(ticket)

    def _answer(self, message: pb.StreamStepsRequest, ticket: Ticket) -> None:
        self._open.discard(ticket)
        positions, outputs, indexes = ticket.outcome()
        self._reply(
            pb.StreamStepsResponse(
                id=message.id,
                session_ids=[message.session_ids[position] for position in positions],
                outputs=write_tensors(zip(ticket.output_names, outputs, strict=False)),
                step_indexes=indexes,
                errors=[write_error(i, message.session_ids[i], error) for i, error in sorted(ticket.errors.items())],
            )
        )

    def _reply(self, message: pb.StreamStepsResponse) -> None:
        self._ready.append(message)
        self._changed.set()
