"""The page of a server that asks for tokens: its files are anybody's, what is in them its callers' own."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from statecell_client import Client
from statecell_server.page.assets import assets

from tests.conftest import LIMIT, Serve
from tests.server.access.conftest import Guarded, write_tokens
from tests.server.page.browser import Browser, browser

X = np.ones((1, 10), np.float32)
DATA = ("models", "model?name=lstm", "sessions?name=lstm", "live", "watch")


@pytest.fixture(scope="module")
def guarded(serve: Serve, lstm_only: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    path = tmp_path_factory.mktemp("access") / "tokens.toml"
    tokens = write_tokens(path)
    with serve("--tokens", str(path), "--http-port", "0", models=lstm_only) as server:
        yield Guarded(server, tokens)


def asked(guarded: Guarded, path: str, token: str = "", content: Any = None) -> tuple[int, Any]:
    """The status, and what the body says where it is JSON; of a stream, its first event."""
    connection = http.client.HTTPConnection(guarded.server.http, timeout=LIMIT)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connection.request("GET" if content is None else "POST", path, None if content is None else json.dumps(content), headers)
    answer = connection.getresponse()
    try:
        if answer.headers["Content-Type"].startswith("text/event-stream"):
            return answer.status, answer.readline().decode().strip()
        body = answer.read()
        return answer.status, json.loads(body) if answer.headers["Content-Type"] == "application/json" else body
    finally:
        connection.close()


def test_its_files_need_no_token_and_all_else_does(guarded: Guarded) -> None:
    for route in assets():
        assert asked(guarded, route.path)[0] == 200
    for path in DATA:
        for token in ("", "sct_nobodys"):
            status, said = asked(guarded, f"/page/{path}", token, {} if path in ("live", "watch") else None)
            assert (status, "token" in said["error"]) == (401, True), path
    assert asked(guarded, "/page/models", guarded.tokens["alice"])[0] == 200


def test_callers_see_and_watch_their_own_sessions_and_admins_see_all(guarded: Guarded) -> None:
    names = ("alice", "bob")
    clients = [Client(guarded.server.address, token=guarded.tokens[name]) for name in names]
    sessions = [client.session("lstm") for client in clients]
    try:
        for session in sessions:
            session.step(X)
        ids = dict(zip(names, (session.id for session in sessions), strict=True))
        for name in (*names, "root"):
            _, listed = asked(guarded, "/page/sessions?name=lstm", guarded.tokens[name])
            assert {s["id"] for s in listed["sessions"]} == ({ids[name]} if name in ids else set(ids.values()))
            assert listed["all"] == len(listed["sessions"])
            for owner, session_id in ids.items():
                status, said = asked(guarded, "/page/watch", guarded.tokens[name], {"session": session_id})
                if name == owner:
                    assert (status, said) == (200, "event: state")
                else:
                    never = session_id[:12] + "A" * 18 + session_id[30:]
                    assert status == 404
                    assert (
                        said["error"].replace(session_id, never)
                        == (asked(guarded, "/page/watch", guarded.tokens[name], {"session": never})[1]["error"])
                    )
    finally:
        for session in sessions:
            session.close()
        for client in clients:
            client.close()


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def test_whoever_opens_it_is_asked_for_a_token(guarded: Guarded, tab: Browser) -> None:
    tab.open(f"http://{guarded.server.http}/")
    tab.until("document.getElementById('key')?.hidden === false")
    tab.js(f"document.getElementById('token').value = {json.dumps(guarded.tokens['alice'])}")
    tab.js("document.querySelector('#key button').click()")
    tab.until("document.getElementById('name')?.textContent === 'lstm/1'")
    tab.until("document.getElementById('status')?.textContent === 'ready'")
    assert tab.js("document.getElementById('key').hidden")
    assert tab.js("location.href") == f"http://{guarded.server.http}/"
