"""InferStream: the requests of one ModelStreamInfer call."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from statecell.oip import inference_pb2 as pb

from statecell_server.protocols.stream import MessageStream

Infer = Callable[[pb.ModelInferRequest], Coroutine[Any, Any, pb.ModelStreamInferResponse]]


class InferStream(MessageStream):
    """Gives each request a task, and answers it when that is done."""

    def __init__(self, infer: Infer) -> None:
        super().__init__()
        self._infer = infer
        self._loop = asyncio.get_running_loop()

    def receive(self, request: pb.ModelInferRequest) -> None:
        task = self._loop.create_task(self._infer(request))
        self._pending.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[pb.ModelStreamInferResponse]) -> None:
        self._pending.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._answer(task.result())
        else:  # no error of a request, but of ours: nothing that follows can be trusted to be answered
            self._fail(error)
