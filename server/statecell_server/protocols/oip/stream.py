"""InferStream: the requests of one ModelStreamInfer call."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from statecell.oip import inference_pb2 as pb

Infer = Callable[[pb.ModelInferRequest], Coroutine[Any, Any, pb.ModelStreamInferResponse]]


class InferStream:
    """An Exchange that begins requests in the order in which they come, and answers each when it can be."""

    def __init__(self, infer: Infer) -> None:
        self._infer = infer
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[pb.ModelStreamInferResponse]] = set()

    @property
    def open(self) -> int:
        return len(self._tasks)

    def begin(self, answer: Callable[[pb.ModelStreamInferResponse], None], fail: Callable[[BaseException], None]) -> None:
        self._answer, self._fail = answer, fail

    def receive(self, request: pb.ModelInferRequest) -> None:
        task = self._loop.create_task(self._infer(request))
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _over(self, task: asyncio.Task[pb.ModelStreamInferResponse]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._answer(task.result())
        else:  # no error of a request, but of ours: nothing that follows can be trusted to be answered
            self._fail(error)
