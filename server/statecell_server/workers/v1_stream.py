"""RelayedSteps: a stream of statecell.v1 whose sessions live in several workers."""

import asyncio
import functools
from collections import deque
from collections.abc import Callable
from itertools import count

from statecell.v1 import inference_pb2 as pb

from statecell_server.access.caller import ANYBODY
from statecell_server.engine.engine import Engine
from statecell_server.errors import StatecellError
from statecell_server.protocols.v1.rows import Rows
from statecell_server.protocols.v1.stream import StepStream
from statecell_server.protocols.v1.wire import write_error
from statecell_server.transport.http2.messages import Aborted
from statecell_server.workers.joining import Cut, check_message
from statecell_server.workers.peers import PeerStream
from statecell_server.workers.sessions import Sessions

PATH = "/statecell.v1.InferenceService/StreamSteps"
Then = Callable[[pb.StreamStepsResponse], None]


class RelayedSteps(StepStream):
    """Messages of one worker's sessions are passed on whole; those of several are cut, and hold up what comes behind them.

    So the answers of a session are in the order of its messages.
    """

    def __init__(self, engine: Engine, rows: Rows, sessions: Sessions) -> None:
        super().__init__(engine, rows, ANYBODY)
        self._sessions = sessions
        self._links: dict[int, PeerStream] = {}
        self._numbers = count(1)
        self._passed: dict[int, Then] = {}  # by the number that a peer knows the message by
        self._joining: asyncio.Task[None] | None = None
        self._local: Then | None = None  # takes the answer to the part of a cut message that is for this worker
        self._behind: deque[pb.StreamStepsRequest] = deque()

    @property
    def open(self) -> int:
        return len(self._pending) + len(self._passed) + len(self._behind) + (self._joining is not None)

    def receive_bytes(self, message: bytes) -> bool:
        return self._joining is None and not self._behind and super().receive_bytes(message)

    def receive(self, message: pb.StreamStepsRequest) -> None:
        self.received += 1
        if self._joining is None and not self._behind:
            self._route(message)
        else:
            self._behind.append(message)

    def _route(self, message: pb.StreamStepsRequest) -> None:
        owners = [self._sessions.owner(session_id) for session_id in message.session_ids]
        several = set(owners)
        if several <= {self._sessions.index}:
            self._submit(message)
        elif len(several) == 1:
            self._pass(owners[0], message, functools.partial(self._passed_over, message.id))
        else:
            self._joining = asyncio.get_running_loop().create_task(self._join(message, owners))

    def _pass(self, index: int, message: pb.StreamStepsRequest, then: Then) -> None:
        """To the worker, under a number of ours. Raises Aborted."""
        link = self._links.get(index)
        if link is None:
            link = self._links[index] = PeerStream(self._sessions.peers.peer(index), PATH, self._peer_answered, self._fail)
        number = next(self._numbers)
        self._passed[number] = then
        passed = pb.StreamStepsRequest()
        passed.CopyFrom(message)
        passed.id = number
        link.send(passed.SerializeToString())

    def _peer_answered(self, answer: bytes) -> None:
        reply = pb.StreamStepsResponse.FromString(answer)
        self._passed.pop(reply.id)(reply)

    def _passed_over(self, number: int, reply: pb.StreamStepsResponse) -> None:
        reply.id = number
        self._answer(reply)

    async def _join(self, message: pb.StreamStepsRequest, owners: list[int]) -> None:
        try:
            reply = await self._joined(message, owners)
        except StatecellError as error:
            ids = message.session_ids
            reply = pb.StreamStepsResponse(id=message.id, errors=[write_error(i, ids[i], error) for i in range(len(ids))])
        except Exception as error:  # nothing that follows can be trusted to be answered
            self._fail(error)
            return
        self._joining = None
        self._answer(reply)  # what comes meanwhile waits behind those that do
        try:
            while self._behind and self._joining is None:
                self._route(self._behind.popleft())
        except Aborted as error:
            self._fail(error)

    async def _joined(self, message: pb.StreamStepsRequest, owners: list[int]) -> pb.StreamStepsResponse:
        check_message(message)
        found = await self._sessions.find(message.session_ids, owners)
        if not any(found):
            return await self._one(owners[0], message)
        cut = Cut(self._engine.models, message, found)
        parts = cut.parts(owners)
        replies = await asyncio.gather(*[self._one(index, part.message) for index, part in parts.items()])
        return cut.join(parts, dict(zip(parts, replies, strict=True)))

    def _one(self, index: int, message: pb.StreamStepsRequest) -> "asyncio.Future[pb.StreamStepsResponse]":
        """The answer of one worker."""
        over: asyncio.Future[pb.StreamStepsResponse] = asyncio.get_running_loop().create_future()

        def then(reply: pb.StreamStepsResponse) -> None:
            if not over.done():
                over.set_result(reply)

        if index == self._sessions.index:
            part = Part(self._engine, self._rows, then)
            part.receive(message)
            self._pending.add(part)
            over.add_done_callback(lambda _: self._pending.discard(part))
        else:
            self._pass(index, message, then)
        return over

    def cancel(self) -> None:
        super().cancel()
        if self._joining is not None:
            self._joining.cancel()
        for link in self._links.values():
            link.close()


class Part(StepStream):
    """One message of a stream of its own, for this worker."""

    def __init__(self, engine: Engine, rows: Rows, then: Then) -> None:
        super().__init__(engine, rows, ANYBODY)
        self.begin(then, lambda _: None)
