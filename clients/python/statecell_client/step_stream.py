"""One session's StreamSteps call: one message in flight; a broken stream is reopened and the message sent again."""

from collections.abc import Sequence

import grpc
from statecell.v1 import inference_pb2 as wire
from statecell.v1 import tensor_pb2

from statecell_client.connection import Connection, Duplex, headers_of
from statecell_client.errors import StatecellError, from_step_error
from statecell_client.progress import Progress
from statecell_client.retry import Route


class StepStream:
    """Send, receive, send, receive.

    Never two messages in flight: the server keeps the last reply of a session, so that one message can be repeated after a lost
    reply and is still applied once. What must go faster goes in larger messages.
    """

    def __init__(self, connection: Connection, route: Route, session_id: str, progress: Progress) -> None:
        self._connection = connection
        self._route = route
        self._session_id = session_id
        self._progress = progress
        self._duplex: Duplex | None = None
        self._request: wire.StreamStepsRequest | None = None
        self._written = False
        self._count = 0

    @property
    def waiting(self) -> bool:
        """Whether a message was sent whose reply was not received."""
        return self._request is not None

    async def send(self, inputs: Sequence[tensor_pb2.Tensor]) -> None:
        """Does not wait for the reply. A stream that turns out to be broken is mended by receive."""
        self._progress.begin(inputs)
        self._count += 1
        self._request = wire.StreamStepsRequest(
            id=self._count, session_ids=[self._session_id], inputs=inputs, step_indexes=[self._progress.step_index]
        )
        try:
            await self._write(self._request)
        except StatecellError:
            self.close()
        except BaseException as error:
            self._fail(error)
            raise

    async def receive(self) -> Sequence[tensor_pb2.Tensor]:
        """The outputs of the message that was sent, after as many attempts as it takes. Raises StatecellError."""
        assert self._request is not None
        try:
            reply = await self._reply(self._request)
        except BaseException as error:
            self._fail(error)
            raise
        self._request = None
        self._progress.advanced(reply.step_indexes[0])
        return reply.outputs

    def close(self) -> None:
        if self._duplex is not None:
            self._duplex.cancel()
        self._duplex, self._written = None, False

    async def _reply(self, request: wire.StreamStepsRequest) -> wire.StreamStepsResponse:
        attempts = None
        while True:
            try:
                return await self._attempt(request)
            except StatecellError as error:
                self._connection.heard(error)
                attempts = attempts or self._connection.attempts(self._route)
                pause = attempts.failed(error)
            await self._connection.open_transport().pause(pause)

    async def _attempt(self, request: wire.StreamStepsRequest) -> wire.StreamStepsResponse:
        try:
            duplex = await self._write(request)
            reply = await duplex.read()
        except StatecellError:
            self.close()
            raise
        self._written = False
        if reply.errors:
            error = from_step_error(reply.errors[0])
            if error.code is grpc.StatusCode.UNAVAILABLE:
                self.close()  # perhaps another address will do
            raise error
        return reply

    async def _write(self, request: wire.StreamStepsRequest) -> Duplex:
        if self._duplex is None:
            address, headers = self._route.address, headers_of(self._session_id)
            self._duplex = await self._connection.open_transport().open(address, headers)
        if not self._written:
            await self._duplex.write(request)
            self._written = True
        return self._duplex

    def _fail(self, error: BaseException) -> None:
        self._request = None
        self.close()
        self._progress.failed(error)
