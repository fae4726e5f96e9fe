"""What the page asks for, without a browser: what comes, what is refused, and what is left when watchers go."""

import http.client
import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from statecell_client import Client
from statecell_server.page.events import WATCHERS

from tests.conftest import LIMIT, Serve, Server

X = np.ones(10, np.float32)


@pytest.fixture(scope="module")
def server(serve: Serve, lstm_only: Path) -> Iterator[Server]:
    with serve("--http-port", "0", models=lstm_only) as running:
        yield running


def post(server: Server, path: str, content: Any) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(server.http, timeout=LIMIT)
    connection.request("POST", path, json.dumps(content))
    return connection, connection.getresponse()


def event(answer: http.client.HTTPResponse) -> tuple[str, Any]:
    """The next one."""
    lines = []
    while line := answer.readline().decode().strip():
        lines.append(line.partition(": ")[2])
    return lines[0], json.loads(lines[1])


def test_every_file_comes_with_the_policy(server: Server) -> None:
    for path in ("/", "/page/page.js", "/page/page.css", "/page/icon.svg", "/page/models"):
        with urllib.request.urlopen(f"http://{server.http}{path}", timeout=LIMIT) as answer:
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';"), path
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert b"http://" not in answer.read().replace(b"http://www.w3.org/2000/svg", b""), "nothing is from elsewhere"


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        ({}, 400, "session is missing"),
        ({"session": 3}, 400, "session is missing"),
        ({"session": "nobody"}, 404, "there is no session 'nobody'"),
        ({"session": "nobody", "row": -1}, 400, "row is '-1'"),
        ({"session": "x" * 5000}, 413, "more than 4096 bytes"),
        ([], 400, "no JSON object"),
    ],
)
def test_what_is_no_session_is_refused_by_name(server: Server, content: Any, status: int, message: str) -> None:
    connection, answer = post(server, "/page/watch", content)
    with closing(connection):
        assert answer.status == status
        assert message in json.load(answer)["error"]


def test_ticks_say_what_was_done(server: Server) -> None:
    figures = json.load(urllib.request.urlopen(f"http://{server.http}/page/models", timeout=LIMIT))["figures"]
    connection, answer = post(server, "/page/live", {})
    with closing(connection), Client(server.address) as client, client.session("lstm") as session:
        event(answer)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            session.step(X)
        said = [dict(zip(figures, event(answer)[1]["models"][0][2], strict=True)) for _ in range(3)]
        assert max(point["steps"] for point in said) > 10
        assert max(point["run_p99"] or 0 for point in said) > 0
        assert said[-1]["sessions"] == 1


def test_one_more_watcher_is_refused_until_another_goes(server: Server) -> None:
    with ExitStack() as stack:
        connections = []
        for _ in range(WATCHERS):
            connection, answer = post(server, "/page/live", {})
            connections.append(stack.enter_context(closing(connection)))
            assert answer.status == 200
            event(answer)
        refused, answer = post(server, "/page/live", {})
        with closing(refused):
            assert answer.status == 503
            assert "which is the most" in json.load(answer)["error"]
        connections[0].sock.close()
        answer.close()
    end = time.monotonic() + LIMIT
    while True:
        again, answer = post(server, "/page/live", {})
        with closing(again):
            if answer.status == 200:
                return
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_watched_server_stops_at_once(serve: Serve, lstm_only: Path) -> None:
    with serve("--http-port", "0", models=lstm_only) as server, Client(server.address) as client:
        session = client.session("lstm")
        streams = [post(server, "/page/live", {}), post(server, "/page/watch", {"session": session.id})]
        assert [event(answer)[0] for _, answer in streams] == ["tick", "state"]
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 6, "those that watch were waited for"
        for connection, _ in streams:
            connection.close()
