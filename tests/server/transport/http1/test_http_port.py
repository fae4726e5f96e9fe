"""The HTTP port: what clients may not do to it, and through it to anybody else."""

import asyncio
import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from statecell_client import Client
from statecell_server.access.tokens import Tokens
from statecell_server.config import Config, ConfigError
from statecell_server.transport.http1 import connection as connection_module
from statecell_server.transport.http1 import server as server_module
from statecell_server.transport.http1.guard import Guard
from statecell_server.transport.http1.server import HttpServer
from statecell_server.transport.limits import Limits

from tests.conftest import LIMIT, Serve, Server
from tests.server.protocols.rest.rest import Rest
from tests.server.transport.test_tls import Files

X = np.zeros((1, 1, 10), np.float32)
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LARGE = 64 << 20


async def large(_: Request) -> Response:
    return PlainTextResponse(b"y" * LARGE)


async def hello(request: Request) -> Response:
    await request.body()
    return PlainTextResponse("hello")


@asynccontextmanager
async def listening() -> AsyncIterator[int]:
    """A server of two pages; its port."""
    routes = [Route("/", hello, methods=["GET", "POST"]), Route("/large", large)]
    server = HttpServer(Guard(Starlette(routes=routes), 4096, Tokens(None)), Limits(metadata=4096))
    port = await server.listen("127.0.0.1", 0)
    try:
        yield port
    finally:
        await server.stop(1)


async def said(port: int, *parts: bytes) -> bytes:
    """All that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), LIMIT)
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(server_module, "LOOK_SECONDS", 0.1)


@pytest.mark.parametrize(
    "parts",
    [[], [b"GET / HT"], [b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", b"x"]],
    ids=["nothing", "half a head", "half a body"],
)
async def test_a_client_that_does_not_go_on_is_left(hurried: None, parts: list[bytes]) -> None:
    async with listening() as port:
        assert await said(port, *parts) == b""


async def test_a_client_that_does_not_read_its_answer_is_left(hurried: None) -> None:
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 10)
        writer.write(GET.replace(b"/ ", b"/large ", 1))
        await asyncio.sleep(3)  # the sockets' buffers are full, and the rest waits
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(LARGE)
        writer.close()


async def test_a_client_that_is_slow_within_its_time_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LOOK_SECONDS", 0.01)
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in GET:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.01)
        assert (await asyncio.wait_for(reader.readline(), LIMIT)).startswith(b"HTTP/1.1 200")
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: Chunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_follows_a_request_of_two_lengths_is_not_read_as_another(head: bytes) -> None:
    async with listening() as port:
        answer = await said(port, head + GET)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"expected one length" in answer


async def test_one_connection_more_than_the_most_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MOST", 3)
    async with listening() as port:
        others = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for reader, writer in others:
            writer.write(GET)
            assert (await asyncio.wait_for(reader.readline(), LIMIT)).startswith(b"HTTP/1.1 200")
        assert await said(port, GET) == b""
        for _, writer in others:
            writer.close()
            await writer.wait_closed()
        while not await said(port, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")):
            await asyncio.sleep(0.01)  # until the server has heard of it


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 2000 + b"\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 9000,
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["many headers", "long path", "HTTP/2", "TLS", "two lengths", "two encodings", "long chunk", "no host"],
)
async def test_what_is_no_request_is_refused_and_the_connection_closed(head: bytes) -> None:
    async with listening() as port:
        answer = await said(port, head)
        assert answer == b"" or answer.split()[1] in (b"400", b"431", b"501", b"505"), answer
        assert b" 200 " in await said(port, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://evil.test", 403), ("null", 403), ("http://[", 403), ("http://127.0.0.1:{port}", 200), (None, 200)],
)
async def test_pages_of_other_hosts_are_refused(origin: str | None, status: int) -> None:
    async with listening() as port:
        head = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        head += "" if origin is None else f"Origin: {origin.format(port=port)}\r\n"
        assert int((await said(port, head.encode() + b"\r\n")).split()[1]) == status


@pytest.fixture(scope="module")
def small(serve: Serve, lstm_only: Path) -> Iterator[Server]:
    """A server that takes little."""
    flags = ["--http-port", "0", "--max-message", "512KiB", "--connection-memory", "1MiB"]
    with serve(*flags, models=lstm_only) as server:
        yield server


def test_a_body_beyond_the_largest_message_is_refused(small: Server) -> None:
    with Rest(small.http) as rest:
        reply = rest.call("POST", "/v2/repository/index", b"x" * (600 << 10))
    assert reply.status == 413
    assert "--max-message" in reply.json["error"]


def kept(server: Server) -> float:
    """Bytes that connections keep beyond their own, as /metrics has them."""
    with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=LIMIT) as answer:
        found = re.search(r"(?m)^statecell_connection_memory_bytes (\S+)", answer.read().decode())
    assert found is not None
    return float(found[1])


def test_bodies_count_against_the_memory_of_connections(small: Server) -> None:
    """Three connections have sent most of theirs and wait; the next is told to come again, and the first ones are served."""
    x = {"name": "x", "datatype": "FP32", "shape": [6000, 1, 10], "data": [0.1234] * 60_000}
    body = json.dumps({"inputs": [x]}).encode()
    waiting = []
    for _ in range(2):
        rest = Rest(small.http)
        rest.connection.putrequest("POST", "/v2/models/lstm/infer")
        rest.connection.putheader("Content-Length", str(len(body)))
        rest.connection.endheaders(body[:-1])
        waiting.append(rest)
    while kept(small) < 2 * (len(body) - (64 << 10)) - 2:  # their bytes are on their way
        time.sleep(0.01)
    with Rest(small.http) as rest:
        assert rest.call("POST", "/v2/models/lstm/infer", body).status == 503
        rest.connection.close()
    for rest in waiting:
        rest.connection.send(body[-1:])
        assert rest.connection.getresponse().status == 200
        rest.connection.close()
    with Rest(small.http) as rest:
        assert rest.call("POST", "/v2/models/lstm/infer", body).status == 200


def test_steps_go_on_while_the_port_is_flooded(serve: Serve, lstm_only: Path) -> None:
    """Idle connections up to the most, garbage, large JSON and scrapes without a pause: every step is answered, and right."""
    with serve("--http-port", "0", models=lstm_only) as server, Client(server.address) as client:
        host, port = server.http.split(":")
        idle = [socket.create_connection((host, int(port)), timeout=LIMIT) for _ in range(200)]
        over = threading.Event()
        json_body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [0.5] * 200_000}]}).encode()

        def flood(content: bytes) -> None:
            while not over.is_set():
                try:
                    with socket.create_connection((host, int(port)), timeout=LIMIT) as raw:
                        raw.sendall(content)
                        while raw.recv(1 << 16):
                            pass
                except OSError:
                    pass

        close = b"Host: a\r\nConnection: close\r\n"
        contents = [
            b"\0" * 5000,
            b"GET /metrics HTTP/1.1\r\n" + close + b"\r\n",
            b"POST /v2/models/lstm/infer HTTP/1.1\r\n" + close + b"Content-Length: %d\r\n\r\n" % len(json_body) + json_body,
        ]
        threads = [threading.Thread(target=flood, args=(content,)) for content in contents]
        for thread in threads:
            thread.start()
        x = np.random.default_rng(0).standard_normal((100, 1, 10), dtype=np.float32)
        try:
            with client.session("lstm") as session:
                steps = [session.step(row[0]) for row in x]
        finally:
            over.set()
            for thread in threads:
                thread.join(LIMIT)
            for raw in idle:
                raw.close()
        assert np.array_equal(np.stack(steps).reshape(100, 20), client.infer("lstm", x=x)["y"].reshape(100, 20))


@pytest.mark.parametrize("front", ["http2", "grpcio"])
def test_it_speaks_tls_with_the_certificate_of_the_other_port(
    serve: Serve, lstm_only: Path, tmp_path: Path, front: str
) -> None:
    files = Files(tmp_path)
    flags = ["--tls-cert", str(files.cert), "--tls-key", str(files.key), "--tls-client-ca", str(files.ca), "--front", front]
    with serve("--http-port", "0", *flags, models=lstm_only) as server:
        curl = ["curl", "-sv", "--cacert", str(files.ca), f"https://{server.http}/health/ready"]
        own = ["--cert", str(files.client_cert), "--key", str(files.client_key)]
        seen = subprocess.run([*curl, *own], capture_output=True, text=True, timeout=LIMIT, check=False)
        assert json.loads(seen.stdout) == {"status": "SERVING"}, seen.stderr
        assert "ALPN: server accepted http/1.1" in seen.stderr
        stranger = subprocess.run(curl, capture_output=True, text=True, timeout=LIMIT, check=False)
        assert stranger.returncode != 0, "it has no certificate"
        context = ssl.create_default_context(cafile=str(files.ca))
        context.load_cert_chain(files.client_cert, files.client_key)
        context.set_alpn_protocols(["h2"])
        host, port = server.http.split(":")
        with socket.create_connection((host, int(port)), timeout=LIMIT) as plain:
            chosen = None
            with suppress(ssl.SSLError), context.wrap_socket(plain, server_hostname=host) as secure:  # some refuse
                chosen = secure.selected_alpn_protocol()
            assert chosen is None


def test_there_is_no_such_port_unless_it_is_asked_for(serve: Serve, lstm_only: Path) -> None:
    with serve(models=lstm_only) as server:
        process = Path(f"/proc/{server.process.pid}")
        own = {link.readlink().name for link in (process / "fd").iterdir() if link.is_symlink()}
        rows = [line.split() for line in (process / "net/tcp").read_text().splitlines()[1:]]
        listening = [row for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own]
    assert len(listening) == 1


@pytest.mark.parametrize("port", [-1, 65536, 50051])
def test_a_port_that_cannot_be_is_refused(lstm_only: Path, port: int) -> None:
    with pytest.raises(ConfigError, match=f"--http-port is {port}"):
        Config(models=lstm_only, http_port=port)


def test_a_port_that_is_taken_is_named(lstm_only: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = _refused(["-m", "statecell_server"], lstm_only, port)
    assert f"--http-port {port} is taken" in refused


@pytest.mark.parametrize("missing", ["starlette", "uvicorn", "prometheus_client"])
def test_without_its_packages_the_server_says_what_to_install(lstm_only: Path, missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from statecell_server.__main__ import app; app()"
    assert "pip install 'statecell-server[http]'" in _refused(["-c", program], lstm_only, "0")


def _refused(program: list[str], models: Path, http_port: str) -> str:
    """What the server says that does not start."""
    command = [sys.executable, *program, "--models", str(models), "--port", "0", "--http-port", http_port]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert seen.returncode == 2, seen.stderr
    return seen.stderr
