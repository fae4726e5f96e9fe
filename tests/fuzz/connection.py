"""HTTP/2 as it comes from the wire, into a connection that writes to nobody."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

import grpc
from statecell_server.transport.http2.call import Method
from statecell_server.transport.http2.connection import Connection
from statecell_server.transport.http2.frames import PREFACE, ConnectionBroken, StreamBroken
from statecell_server.transport.http2.headers import HeaderReader
from statecell_server.transport.http2.memory import Held, Memory
from statecell_server.transport.http2.shared import Shared
from statecell_server.transport.limits import Limits

MOST_SENT = 1 << 20
"""Bytes that a few KiB from a client may be answered with."""


class Nobody(asyncio.Transport):
    """Takes what is written, and counts it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += len(data)

    def writelines(self, pieces: Iterable[Any]) -> None:
        for piece in pieces:
            self.write(piece)

    def close(self) -> None:
        self.closing = True

    abort = close

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def _say(message: bytes, _: object) -> bytes:
    return message


async def _wait(requests: Any, _: object) -> bytes:
    return str([len(request) async for request in requests]).encode()


class _Fuzzed:
    """One event loop for all connections; what goes wrong on it is kept."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.errors: list[BaseException] = []
        self.loop.set_exception_handler(
            lambda _, context: self.errors.append(context.get("exception") or RuntimeError(context["message"]))
        )
        self.handlers = {
            "/statecell.v1.InferenceService/Step": Method(grpc.unary_unary_rpc_method_handler(_say, bytes, bytes)),
            "/statecell.v1.InferenceService/StreamSteps": Method(grpc.stream_unary_rpc_method_handler(_wait, bytes, bytes)),
        }

    def run(self, data: bytes) -> None:
        log = logging.getLogger("statecell_server")
        before = log.level
        log.setLevel(logging.CRITICAL)
        try:
            self.loop.run_until_complete(self._run(data))
        finally:
            log.setLevel(before)
        if self.errors:
            raise self.errors.pop()

    async def _run(self, data: bytes) -> None:
        connections: set[Connection] = set()
        limits = Limits(message=1 << 16)
        connection, nobody = Connection(Shared(self.handlers, limits), connections), Nobody()
        connection.connection_made(nobody)
        # The first byte says how the rest is cut into what arrives together.
        piece = data[0] + 1 if data else 1
        connection.data_received(PREFACE)
        for at in range(1, len(data), piece * 8):
            connection.data_received(data[at : at + piece * 8])
            await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)
        assert nobody.sent <= MOST_SENT, f"{len(data)} bytes were answered with {nobody.sent}"
        connection.connection_lost(None)
        for _ in range(3):
            await asyncio.sleep(0)
        assert not connection.calls
        assert not connections


_fuzzed: list[_Fuzzed] = []


def fuzz_connection(data: bytes) -> None:
    """Frames, after the preface."""
    if not _fuzzed:
        _fuzzed.append(_Fuzzed())
    _fuzzed[0].run(data)


def fuzz_headers(data: bytes) -> None:
    """Header blocks of one connection, each with its length in front."""
    reader, at = HeaderReader(Held(Memory(1 << 20))), 0
    while at < len(data):
        block = data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
        try:
            request = reader.read(block)
        except StreamBroken:
            continue
        except ConnectionBroken:
            return
        assert request.path
        assert request.timeout is None or request.timeout >= 0
