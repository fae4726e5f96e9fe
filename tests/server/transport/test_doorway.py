"""Connections count from the moment that they are accepted, and want of descriptors costs no more than the wait."""

import asyncio
import logging
import os
import resource
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from statecell_server.transport import doorway as doorway_module
from statecell_server.transport.doorway import Doorway
from statecell_server.transport.tls import Certificates, TlsFiles

from tests.conftest import LIMIT
from tests.server.transport.test_tls import Files

MOST = 3


class Open(asyncio.Protocol):
    """Says hello, and stays."""

    def __init__(self, all_of_them: set["Open"], greeted: Callable[[], None]) -> None:
        self._all, self._greeted = all_of_them, greeted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._all.add(self)
        self._greeted()
        self.transport.write(b"hello")

    def connection_lost(self, _: Exception | None) -> None:
        self._all.discard(self)


class House:
    """A doorway, who is inside, and how many were refused."""

    def __init__(self, most: int, context: ssl.SSLContext | None = None) -> None:
        self.inside = set[Open]()
        self.refused = 0
        self.doorway = Doorway(
            lambda greeted: Open(self.inside, greeted), most, lambda: len(self.inside), self._refuse, context
        )

    def _refuse(self) -> None:
        self.refused += 1


@pytest.fixture(params=["uvloop", "asyncio"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    loop_factory = pytest.importorskip("uvloop").new_event_loop if request.param == "uvloop" else None
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        yield runner


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while not true():
            await asyncio.sleep(0.01)


async def ending(connection: socket.socket) -> bytes:
    """What comes until the server closes it."""
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(connection, 100), LIMIT)
    except ConnectionError:
        return b""


async def connected(port: int) -> socket.socket:
    connection = socket.socket()
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    return connection


def test_connections_that_have_not_shaken_hands_count_until_they_are_given_up(
    runner: asyncio.Runner, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorway_module, "HANDSHAKE_SECONDS", 3.0)

    async def run() -> None:
        house = House(MOST, Certificates(TlsFiles(files.cert, files.key)).context)
        port = await house.doorway.listen("127.0.0.1", 0, 100)
        silent = [await connected(port) for _ in range(MOST)]
        await until(lambda: house.doorway.greeting == MOST)
        late = await connected(port)
        assert await ending(late) == b""
        assert (house.refused, house.doorway.greeting, len(house.inside)) == (1, MOST, 0)
        silent.pop().close()
        await until(lambda: house.doorway.greeting == MOST - 1)
        context = ssl.create_default_context(cafile=str(files.ca))
        context.set_alpn_protocols(["h2"])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        assert await reader.readexactly(5) == b"hello"
        await until(lambda: (len(house.inside), house.doorway.greeting) == (1, 0))  # the silent ones have had their time
        for connection in silent:
            assert await ending(connection) == b""
            connection.close()
        late.close()
        house.doorway.close()
        writer.transport.abort()
        await until(lambda: not house.inside)

    runner.run(run())


def test_in_clear_text_one_too_many_is_closed_and_a_place_that_is_free_is_given(runner: asyncio.Runner) -> None:
    async def run() -> None:
        house = House(MOST)
        port = await house.doorway.listen("127.0.0.1", 0, 100)
        for _ in range(20):  # none is refused for the moments in which the one before is not open yet
            held = [await connected(port) for _ in range(MOST)]
            for connection in held:
                assert await ending(connection) == b"hello"
            with await connected(port) as late:
                assert await ending(late) == b""
            for connection in held:
                connection.close()
            await until(lambda: not house.inside)
        assert house.refused == 20
        house.doorway.close()

    runner.run(run())


def test_where_descriptors_run_out_the_next_waits_and_the_loop_rests(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorway_module, "PAUSE_SECONDS", 0.2)

    async def run() -> None:
        house = House(100)
        port = await house.doorway.listen("127.0.0.1", 0, 100)
        waiting = [socket.socket() for _ in range(5)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        filled = os.open(os.devnull, os.O_RDONLY)
        resource.setrlimit(resource.RLIMIT_NOFILE, (filled + 1, hard))
        try:
            for connection in waiting:
                connection.connect(("127.0.0.1", port))
            worked, began = time.process_time(), time.monotonic()
            await asyncio.sleep(1.5)
            assert time.process_time() - worked < (time.monotonic() - began) / 3
            assert not house.inside
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            os.close(filled)
        await until(lambda: len(house.inside) == len(waiting))
        for connection in waiting:
            connection.close()
        await until(lambda: not house.inside)
        house.doorway.close()

    with caplog.at_level(logging.WARNING):
        runner.run(run())
    assert [record.message for record in caplog.records] == [
        "no connection can be accepted now: Too many open files; trying again every 0.2 s"
    ]
