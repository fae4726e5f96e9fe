"""InferStream: one ModelStreamInfer call, many requests in flight."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from statecell.oip import inference_pb2 as pb

WINDOW = 1024
"""Requests of one stream in flight; beyond it the server stops reading, and the client's writes wait."""

Infer = Callable[[pb.ModelInferRequest], Awaitable[pb.ModelStreamInferResponse]]


class InferStream:
    """Begins requests in the order in which they come, and writes each answer as soon as it is there."""

    def __init__(self, infer: Infer, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._infer = infer
        self._context = context
        self._open: set[asyncio.Task[None]] = set()
        self._ready: deque[pb.ModelStreamInferResponse] = deque()
        self._broken: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    async def serve(self) -> None:
        """Until the client has closed its side and all is answered."""
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(lambda _: self._changed.set())
        try:
            while self._broken is None and (self._ready or self._open or not self._reader.done()):
                if self._ready:
                    await self._context.write(self._ready.popleft())
                    self._room.set()
                else:
                    self._changed.clear()
                    await self._changed.wait()
            if self._broken is not None:
                self._broken.result()
            if not self._reader.cancelled():
                self._reader.result()
        finally:
            self._reader.cancel()
            for task in self._open:
                task.cancel()

    def drain(self) -> None:
        """No more reading; what was read is answered."""
        self._reader.cancel()

    async def _read(self) -> None:
        while (request := await self._context.read()) is not grpc.aio.EOF:
            task = asyncio.create_task(self._answer(request))
            self._open.add(task)
            task.add_done_callback(self._close)
            while len(self._open) + len(self._ready) >= WINDOW:
                self._room.clear()
                await self._room.wait()

    def _close(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._broken = task  # no error of a request, but of ours: nothing that follows can be trusted to be answered
        self._changed.set()

    async def _answer(self, request: pb.ModelInferRequest) -> None:
        self._ready.append(await self._infer(request))
