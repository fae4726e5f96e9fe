"""Connections that never speak: counted from accept, bounded, and gone in the end, in clear text and before TLS."""

import errno
import itertools
import logging
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from statecell_client import Client, ServerUnreachable, Tls
from statecell_server.transport import door as door_module
from statecell_server.transport.limits import Limits
from statecell_server.transport.tls import Certificates, TlsFiles

from tests.conftest import LIMIT, Serve
from tests.server.transport.http2.echo import Front
from tests.server.transport.test_tls import Files

BEGINNINGS = [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"]
"""Of a handshake that does not go on."""


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@contextmanager
def silent(address: str, number: int, beginning: bytes) -> Iterator[list[socket.socket]]:
    """As many connections that say `beginning` and no more."""
    host, port = address.rsplit(":", 1)
    with ExitStack() as stack:
        made = [stack.enter_context(socket.create_connection((host, int(port)), timeout=LIMIT)) for _ in range(number)]
        for connection in made:
            try:
                connection.sendall(beginning)
            except (BrokenPipeError, ConnectionResetError):  # it was one too many
                continue
        yield made


def closed(connections: list[socket.socket], seconds: float = 1.0) -> int:
    """How many of them the server has closed within so long."""
    end, found = time.monotonic() + seconds, 0
    for connection in connections:
        connection.settimeout(max(0.01, end - time.monotonic()))
        try:
            found += not connection.recv(1)
        except ConnectionResetError:
            found += 1
        except TimeoutError:
            continue
    return found


def until(true: Callable[[], bool], seconds: float = LIMIT) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


@pytest.fixture(params=["uvloop", "asyncio"])
def few(request: pytest.FixtureRequest, files: Files) -> Iterator[Front]:
    """A server that has room for six connections, which speak TLS."""
    loop_factory = pytest.importorskip("uvloop").new_event_loop if request.param == "uvloop" else None
    front = Front(loop_factory, Limits(connections=6), Certificates(TlsFiles(files.cert, files.key)))
    yield front
    front.close()
    assert front.errors == []


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_handshakes_that_do_not_end_are_counted_and_bounded(few: Front, beginning: bytes) -> None:
    with silent(few.address, 20, beginning) as connections:
        assert closed(connections) == 14
        assert few.server.connections == 6
    until(lambda: few.server.connections == 0)


def test_a_handshake_that_does_not_end_is_ended(few: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(few.server._door._tls, "ssl_handshake_timeout", 0.3)
    with silent(few.address, 6, b"\x16\x03") as connections:
        assert closed(connections, LIMIT) == 6
        until(lambda: few.server.connections == 0)


def test_one_that_is_done_is_counted_once(few: Front, files: Files) -> None:
    context = ssl.create_default_context(cafile=str(files.ca))
    context.set_alpn_protocols(["h2"])
    host, port = few.address.rsplit(":", 1)
    with ExitStack() as stack:
        for number in range(1, 7):
            plain = stack.enter_context(socket.create_connection((host, int(port)), timeout=LIMIT))
            stack.enter_context(context.wrap_socket(plain, server_hostname="localhost"))
            until(lambda number=number: few.connections == number)  # type: ignore[misc]
            assert few.server.connections == number
    until(lambda: few.server.connections == 0)


@pytest.mark.parametrize("flag", [["--drain-seconds", "1"], ["--drain-seconds", "9"]])
def test_stopping_waits_for_no_handshake(serve: Serve, lstm_only: Path, files: Files, flag: list[str]) -> None:
    flags = ["--tls-cert", str(files.cert), "--tls-key", str(files.key), *flag]
    with serve(*flags, models=lstm_only) as server, silent(server.address, 5, b"\x16") as connections:
        time.sleep(0.3)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 5
        assert closed(connections) == 5


def test_without_descriptors_it_pauses_says_so_once_and_goes_on(
    few: Front, files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = socket.socket.accept
    tried: list[float] = []

    def accept(listener: socket.socket) -> tuple[socket.socket, object]:
        if len(tried) < 3:
            tried.append(time.monotonic())
            raise OSError(errno.EMFILE, "Too many open files")
        return real(listener)

    monkeypatch.setattr(socket.socket, "accept", accept)
    with caplog.at_level(logging.WARNING), silent(few.address, 1, b""):
        until(lambda: few.server.connections == 1)
    assert len(tried) == 3
    assert min(b - a for a, b in itertools.pairwise(tried)) > door_module.PAUSE_SECONDS * 0.9
    assert [r.getMessage() for r in caplog.records] == [
        "no connection can be accepted: Too many open files; the next try is in 0.5 s"
    ]


def test_clients_of_a_tls_server_go_on_beside_them_and_its_log_says_one_line(
    serve: Serve, lstm_only: Path, files: Files, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    flags = ["--tls-cert", str(files.cert), "--tls-key", str(files.key), "--max-connections", "4"]
    with log.open("w") as stderr, serve(*flags, models=lstm_only, stderr=stderr) as server:
        address = server.address.replace("127.0.0.1", "localhost")
        x = np.ones((1, 10), np.float32)
        with Client(address, tls=Tls(ca=files.ca)) as client, client.session("lstm") as session:
            first = session.step(x)
            with silent(server.address, 30, b"\x16\x03\x01") as grpc:
                assert closed(grpc) >= 26
                assert not np.array_equal(session.step(x), first)
                with silent(server.address, 1, b"") as more:
                    assert closed(more) == 1
            until(lambda: _answers(address, files))
        assert server.stop() == 0
    assert len(re.findall("more are closed at once", log.read_text())) == 1, log.read_text()


def _answers(address: str, files: Files) -> bool:
    try:
        with Client(address, tls=Tls(ca=files.ca)) as client:
            return bool(client.models())
    except ServerUnreachable:
        return False
