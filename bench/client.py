"""The load in Python, where bench/client.cc cannot be compiled: same arguments, same stdin, same stdout.

Its core is full long before the server's: read `client_busy` before believing its rates.
"""

import asyncio
import contextlib
import json
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from bench.messages import INDEX_BYTES, varint

PATIENCE = 30.0
"""Seconds beyond the measured time for every caller to have two replies."""


@dataclass(frozen=True)
class Arguments:
    address: str
    method: str
    streaming: bool
    connections: int
    window: int
    active: int
    stride: int
    warm: float
    seconds: float
    smallest_reply: int
    server_pid: int

    @classmethod
    def parse(cls, argv: list[str]) -> "Arguments":
        address, method, kind, *numbers = argv
        connections, window, active, stride = map(int, numbers[:4])
        warm, seconds = map(float, numbers[4:6])
        smallest, pid = map(int, numbers[6:])
        return cls(address, method, kind == "streaming", connections, window, active, stride, warm, seconds, smallest, pid)


@dataclass
class Lane:
    """One caller."""

    data: bytes
    indexes: int
    active: bool
    index: int = 0
    sent: deque[float] = field(default_factory=deque)
    replies: list[float] = field(default_factory=list)  # when, in the measured time
    opened: bool = False
    failures: int = 0

    def message(self, stride: int) -> bytes:
        head = self.data[: len(self.data) - INDEX_BYTES * self.indexes]
        message = head + varint(self.index) * self.indexes
        self.index += stride
        return message


class Client:
    """All lanes, on one event loop."""

    def __init__(self, arguments: Arguments, lanes: list[Lane]) -> None:
        self.arguments = arguments
        self.lanes = lanes
        self.latencies: list[float] = []
        self.measuring = self.stopped = False

    async def run(self) -> dict[str, float]:
        arguments, began = self.arguments, time.monotonic()
        # A connection of its own for each channel.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        channels = [grpc.aio.insecure_channel(arguments.address, options=options) for _ in range(arguments.connections)]
        speak = self._stream if arguments.streaming else self._calls
        tasks = [asyncio.create_task(speak(lane, channels[i % len(channels)])) for i, lane in enumerate(self.lanes)]
        while not all(lane.opened for lane in self.lanes) and time.monotonic() < began + 120:
            await asyncio.sleep(0.01)
        opened = time.monotonic() - began
        await asyncio.sleep(arguments.warm)
        busy = await self._measure()
        self.stopped = True
        await asyncio.wait(tasks, timeout=10)
        for task in tasks:
            task.cancel()
        return {
            "rate": sum((len(r) - 1) / (r[-1] - r[0]) for r in (lane.replies for lane in self.lanes) if len(r) > 1),
            "opened_s": opened,
            "failures": sum(lane.failures for lane in self.lanes),
            "unopened": sum(not lane.opened for lane in self.lanes),
            **busy,
        }

    async def _measure(self) -> dict[str, float]:
        clock = ~self.arguments.server_pid << 3 | 2  # the CPU clock of another process, as clock_getcpuclockid makes it
        before = time.monotonic(), time.clock_gettime(clock), time.process_time()
        self.measuring = True
        await asyncio.sleep(self.arguments.seconds)
        while self._unmeasured() and time.monotonic() < before[0] + self.arguments.seconds + PATIENCE:
            await asyncio.sleep(0.01)
        self.measuring = False
        took = time.monotonic() - before[0]
        used = time.clock_gettime(clock) - before[1], time.process_time() - before[2]
        return {"server_busy": used[0] / took, "client_busy": used[1] / took}

    def _unmeasured(self) -> bool:
        return any(lane.active and len(lane.replies) < 2 and not lane.failures for lane in self.lanes)

    def _replied(self, lane: Lane, reply: bytes) -> None:
        now, began = time.monotonic(), lane.sent.popleft()
        lane.opened = True
        if len(reply) < self.arguments.smallest_reply:
            lane.failures += 1
        elif self.measuring:
            lane.replies.append(now)
            self.latencies.append(1e6 * (now - began))

    def _more(self, lane: Lane) -> bool:
        return not self.stopped and (lane.active or not lane.opened)

    async def _calls(self, lane: Lane, channel: grpc.aio.Channel) -> None:
        call: Any = channel.unary_unary(self.arguments.method)
        with self._failing(lane):
            while self._more(lane):
                lane.sent.append(time.monotonic())
                self._replied(lane, await call(lane.message(self.arguments.stride)))

    async def _stream(self, lane: Lane, channel: grpc.aio.Channel) -> None:
        call: Any = channel.stream_stream(self.arguments.method)()
        with self._failing(lane):
            while self._more(lane) or lane.sent:
                while self._more(lane) and len(lane.sent) < (self.arguments.window if lane.active else 1):
                    lane.sent.append(time.monotonic())
                    await call.write(lane.message(self.arguments.stride))
                reply = await call.read()
                if reply is grpc.aio.EOF:
                    raise grpc.aio.UsageError("the stream ended")
                self._replied(lane, reply)
            while not self.stopped:
                await asyncio.sleep(0.1)

    @contextlib.contextmanager
    def _failing(self, lane: Lane) -> Iterator[None]:
        try:
            yield
        except (grpc.aio.AioRpcError, grpc.aio.UsageError) as error:
            print(f"failure: {error}", file=sys.stderr)
            lane.failures += 1
            lane.opened = True


def lanes(content: bytes, active: int) -> list[Lane]:
    found: list[Lane] = []
    at = 0
    while at < len(content):
        size, indexes = struct.unpack_from("<II", content, at)
        found.append(Lane(content[at + 8 : at + 8 + size], indexes, len(found) < active))
        at += 8 + size
    return found


def main() -> None:
    arguments = Arguments.parse(sys.argv[1:])
    client = Client(arguments, lanes(sys.stdin.buffer.read(), arguments.active))
    found = asyncio.run(client.run())
    sys.stdout.buffer.write(json.dumps(found).encode() + b"\n" + np.array(client.latencies, "<f4").tobytes())


if __name__ == "__main__":
    main()
