"""Load: durable sessions that step without a pause while faults befall the servers, and what they saw."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime as ort
from google.protobuf.message import Message
from statecell.tensor import Array
from statecell.v1 import inference_pb2 as wire
from statecell_client import AsyncClient, AsyncSession, Retry, StatecellError, Tls
from statecell_client.asyncio_transport import AsyncioDuplex, AsyncioTransport
from statecell_client.connection import Headers

from tests.faults.figures import Row

INPUT_SIZE = 10
PACE = 0.01
"""Seconds that a session waits between two steps: faults are to befall it in all stages of a step, not full queues."""


class LocalRun:
    """The model in this process, uninterrupted: what every session is compared with."""

    def __init__(self, models: Path) -> None:
        (path,) = models.glob("*/1/model.onnx")
        self._ort_session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._shapes = {i.name: i.shape for i in self._ort_session.get_inputs()}

    def __call__(self, xs: Sequence[Array]) -> tuple[Array, list[Array]]:
        """xs: [input_size] each. y [seq_len, hidden_size], and the final states."""
        state = {name: np.zeros((shape[0], 1, shape[2]), "f4") for name, shape in self._shapes.items() if name != "x"}
        y, *final = self._ort_session.run(["y", "h_n", "c_n"], {"x": np.stack(xs)[:, None], **state})
        return y[:, 0], final


class CountingDuplex:
    """A duplex that counts what goes wrong with it."""

    def __init__(self, inner: AsyncioDuplex, transport: "CountingTransport") -> None:
        self._inner = inner
        self._transport = transport

    async def write(self, request: wire.StreamStepsRequest) -> None:
        await self._inner.write(request)

    async def read(self) -> wire.StreamStepsResponse:
        try:
            reply = await self._inner.read()
        except StatecellError:
            self._transport.failures += 1
            raise
        self._transport.failures += bool(reply.errors)
        return reply

    def cancel(self) -> None:
        self._inner.cancel()


class CountingTransport(AsyncioTransport):
    """Counts the attempts that failed."""

    def __init__(self, tls: Tls | None) -> None:
        super().__init__(tls=tls)
        self.failures = 0

    async def call(self, address: str, rpc: str, request: Message, timeout: float, headers: Headers) -> Any:
        try:
            return await super().call(address, rpc, request, timeout, headers)
        except StatecellError:
            self.failures += 1
            raise

    async def open(self, address: str, headers: Headers) -> Any:
        return CountingDuplex(await super().open(address, headers), self)


@dataclass
class Track:
    """What one session sent and got."""

    session: AsyncSession
    xs: list[Array] = field(default_factory=list)
    ys: list[Array] = field(default_factory=list)
    longest: float = 0.0
    error: StatecellError | None = None


class Load:
    """`async with Load(addresses, sessions=32) as load:` half of the sessions make unary calls, half have a stream each."""

    def __init__(self, addresses: Sequence[str], *, sessions: int, timeout: float = 60, tls: Tls | None = None) -> None:
        self._transport = CountingTransport(tls)
        retry = Retry(timeout=timeout, longest_pause=0.25)
        self._client = AsyncClient(addresses, retry=retry, transport=self._transport)
        self._sessions = sessions
        self._over = False
        self.tracks: list[Track] = []

    async def __aenter__(self) -> Self:
        opened = await asyncio.gather(*(self._open() for _ in range(self._sessions)))
        self.tracks = [Track(session) for session in opened]
        self._tasks = [asyncio.create_task(self._step(i, track)) for i, track in enumerate(self.tracks)]
        return self

    async def _open(self) -> AsyncSession:
        return await self._client.session("lstm", durable=True)

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()

    async def _step(self, number: int, track: Track) -> None:
        try:
            if number % 2:
                await self._streamed(number, track)
            else:
                await self._unary(number, track)
        except StatecellError as error:
            track.error = error

    async def _inputs(self, number: int, track: Track) -> AsyncIterator[Array]:
        random = np.random.default_rng(number)
        while not self._over:
            track.xs.append(random.standard_normal(INPUT_SIZE, np.float32))
            yield track.xs[-1]
            await asyncio.sleep(PACE)

    async def _unary(self, number: int, track: Track) -> None:
        async for x in self._inputs(number, track):
            began = time.monotonic()
            track.ys.append(await track.session.step(x))
            track.longest = max(track.longest, time.monotonic() - began)

    async def _streamed(self, number: int, track: Track) -> None:
        began = time.monotonic()
        async for y in track.session.stream(self._inputs(number, track)):
            track.ys.append(y)
            now = time.monotonic()
            track.longest, began = max(track.longest, now - began - PACE), now

    async def progress(self, steps: int) -> None:
        """Waits until every session has got that many more answers, or failed."""
        goals = [len(track.ys) + steps for track in self.tracks]
        async with asyncio.timeout(120):
            while any(len(t.ys) < goal and t.error is None for t, goal in zip(self.tracks, goals, strict=True)):
                await asyncio.sleep(0.02)

    def serving(self, address: str) -> int:
        """How many of the sessions are served there."""
        return sum(track.session._route.address == address for track in self.tracks)

    async def verify(self, fault: str, local: LocalRun) -> Row:
        """Ends the load; every session must equal the local run, bit for bit, in every answer and in its final state."""
        self._over = True
        await asyncio.gather(*self._tasks)
        retries = self._transport.failures
        lost = doubled = 0
        for track in self.tracks:
            assert track.error is None, f"a step failed at the client: {track.error!r}"
            snapshot = await track.session.snapshot()
            lost += max(0, len(track.ys) - snapshot.step_index)
            doubled += max(0, snapshot.step_index - len(track.ys))
            ys, final = local(track.xs)
            assert len(track.xs) == len(track.ys)
            np.testing.assert_array_equal(np.stack(track.ys), ys)
            for got, expected in zip(snapshot.states, final, strict=True):
                np.testing.assert_array_equal(got, expected)
        longest = 1000 * max(track.longest for track in self.tracks)
        steps = sum(len(track.ys) for track in self.tracks)
        failed = sum(track.error is not None for track in self.tracks)
        row = Row(fault, self._sessions, steps, retries, longest, lost, doubled, failed)
        assert (lost, doubled) == (0, 0)
        return row
