"""InferStream: the requests of one ModelStreamInfer call."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from statecell.oip import inference_pb2 as pb

from statecell_server.access.caller import Caller
from statecell_server.errors import StatecellError
from statecell_server.protocols.oip.request import Key
from statecell_server.protocols.oip.rows import FINAL, Over, Row, Rows
from statecell_server.protocols.oip.wire import sequence_of, write_streamed_error
from statecell_server.protocols.protobuf import field
from statecell_server.protocols.stream import MessageStream

Infer = Callable[[pb.ModelInferRequest, Caller], Coroutine[Any, Any, pb.ModelStreamInferResponse]]


class InferStream(MessageStream):
    """Gives each request a task, and answers it when that is done."""

    def __init__(self, infer: Infer, rows: Rows, count: Over, caller: Caller) -> None:
        """`count` hears of each row and its answer."""
        super().__init__()
        self._infer = infer
        self._rows = rows
        self._count = count
        self._caller = caller
        self._loop = asyncio.get_running_loop()
        self._unstarted: Counter[Key] = Counter()  # sequences of tasks that have not had their first turn, and so no places yet

    def receive_bytes(self, message: bytes) -> bool:
        """Whether the message was a row, and is on its way."""
        row = self._rows.begin(message, self._row_over, self._caller, self._unstarted)  # which it must not overtake
        if row is None:
            return False
        self._pending.add(row)
        return True

    def _row_over(self, row: Row, answer: bytes | StatecellError) -> None:
        self._pending.discard(row)
        self._count(row, answer)
        if isinstance(answer, bytes):
            self._answer(field(2, answer + FINAL))
            return
        response = pb.ModelStreamInferResponse()
        write_streamed_error(pb.ModelInferRequest.FromString(row.message), answer, response)
        response.infer_response.parameters["triton_final_response"].bool_param = True
        self._answer(response)

    def receive(self, request: pb.ModelInferRequest) -> None:
        key = sequence_of(request, self._caller)
        self._unstarted[key] += 1
        task = self._loop.create_task(self._start(request, key))
        self._pending.add(task)
        task.add_done_callback(self._over)

    async def _start(self, request: pb.ModelInferRequest, key: Key) -> pb.ModelStreamInferResponse:
        self._unstarted[key] -= 1
        if not self._unstarted[key]:
            del self._unstarted[key]
        return await self._infer(request, self._caller)

    def _over(self, task: asyncio.Task[pb.ModelStreamInferResponse]) -> None:
        self._pending.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._answer(task.result())
        else:  # no error of a request, but of ours: nothing that follows can be trusted to be answered
            self._fail(error)
