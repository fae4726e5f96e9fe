"""Peers: the other workers, to pass calls on to. What is passed on is answered there, so it is never passed on again."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import grpc

from statecell_server.transport.http2.messages import Aborted
from statecell_server.workers.place import Place

STREAMS = 500
"""Of one connection to a peer, so that its windows are shared by no more."""
SESSIONS = "/statecell.workers.Worker/Sessions"
DETAILS = "grpc-status-details-bin"
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]

Received = Callable[[bytes], None]
Failed = Callable[[BaseException], None]


class Found(NamedTuple):
    """What a message of several sessions needs to know of each."""

    model: str
    version: str
    batch: int


class Peer:
    """Connections to one process; another one in its place is another Peer."""

    def __init__(self, path: str, incarnation: tuple[int, int]) -> None:
        self.incarnation = incarnation
        self._path = path
        self.calls = self._connect()
        self._streams: list[tuple[grpc.aio.Channel, list[int]]] = []

    def _connect(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"unix:{self._path}", options=OPTIONS)

    def lend(self) -> tuple[grpc.aio.Channel, list[int]]:
        """A connection with room for a stream; the number in it is of those that it has."""
        for entry in self._streams:
            if entry[1][0] < STREAMS:
                break
        else:
            entry = (self._connect(), [0])
            self._streams.append(entry)
        entry[1][0] += 1
        return entry

    async def close(self) -> None:
        for channel in (self.calls, *(channel for channel, _ in self._streams)):
            await channel.close()


class Peers:
    """Belongs to the event loop."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._peers: dict[int, Peer] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def up(self, index: int) -> bool:
        """Whether there is a process now that takes calls."""
        return self.place.incarnation(index) is not None

    def peer(self, index: int) -> Peer:
        """Raises Aborted where there is none."""
        incarnation = self.place.incarnation(index)
        peer = self._peers.get(index)
        if peer is not None and peer.incarnation != incarnation:
            del self._peers[index]
            task = asyncio.get_running_loop().create_task(peer.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            peer = None
        if incarnation is None:
            raise gone(index)
        if peer is None:
            peer = self._peers[index] = Peer(str(self.place.socket(index)), incarnation)
        return peer

    async def call(self, index: int, path: str, message: bytes) -> bytes:
        """A unary call's answer. Raises Aborted with what the peer said. Cancelling this cancels it there."""
        try:
            call: Any = self.peer(index).calls.unary_unary(path)
            answer: bytes = await call(message)
        except grpc.aio.AioRpcError as error:
            raise told(error) from error
        return answer

    async def sessions(self, index: int, ids: Sequence[str]) -> list[Found | None]:
        """What the worker knows of its sessions; None: that there is no such one."""
        answer = await self.call(index, SESSIONS, json.dumps(list(ids)).encode())
        return [None if entry is None else Found(*entry) for entry in json.loads(answer)]

    async def close(self) -> None:
        for peer in self._peers.values():
            await peer.close()


def gone(index: int) -> Aborted:
    return Aborted(
        grpc.StatusCode.UNAVAILABLE, f"worker {index} of this server has stopped and is being started again; send it again then"
    )


def told(error: grpc.aio.AioRpcError) -> Aborted:
    """What a peer said, to be said again."""
    metadata = [(key, value) for key, value in (error.trailing_metadata() or ()) if key == DETAILS]
    return Aborted(error.code(), error.details() or "", metadata)


class PeerStream:
    """Messages to a peer in their order, and its answers. `fail` hears, once, why there will be no more."""

    def __init__(self, peer: Peer, path: str, received: Received, fail: Failed) -> None:
        self._peer = peer
        self._received, self._fail = received, fail
        self._outbox: asyncio.Queue[bytes] = asyncio.Queue()  # no more than the exchange takes
        channel, self._count = peer.lend()
        self._call: Any = channel.stream_stream(path)()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run(work)) for work in (self._write, self._read)]

    def send(self, message: bytes) -> None:
        self._outbox.put_nowait(message)

    async def _write(self) -> None:
        while True:
            await self._call.write(await self._outbox.get())

    async def _read(self) -> None:
        while (message := await self._call.read()) is not grpc.aio.EOF:
            self._received(message)
        code = await self._call.code()
        raise Aborted(grpc.StatusCode.UNAVAILABLE, f"another worker of this server has ended the stream ({code.name})")

    async def _run(self, work: Callable[[], Any]) -> None:
        try:
            await work()
        except grpc.aio.AioRpcError as error:
            self._fail(told(error))
        except asyncio.InvalidStateError as error:  # a write after the end
            self._fail(Aborted(grpc.StatusCode.UNAVAILABLE, f"another worker of this server has ended the stream: {error}"))
        except Exception as error:
            self._fail(error)

    def close(self) -> None:
        """Nobody waits for answers any more."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            self._count[0] -= 1
        self._tasks = []
        self._call.cancel()
