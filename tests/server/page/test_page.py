"""The page in a real browser, on a real server: opened, clicked through, a session watched while it steps."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
import statecell_export
import torch
from statecell_client import Client
from torch import nn

from tests.conftest import Serve, Server
from tests.server.page.browser import Browser, browser

X = np.ones(10, np.float32)
NAME = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def served(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("models")
    for name in ("lstm", "other"):
        statecell_export.export(nn.LSTM(10, 20, 2).eval(), torch.zeros(5, 1, 10), name=name, out=models)
    (models / "other").rename(models / NAME)
    report = models / NAME / "1" / "report.json"
    content = json.loads(report.read_text())
    content["assumptions"] = [NAME]
    report.write_text(json.dumps(content))
    (models / "lstm" / "2").mkdir()
    (models / "lstm" / "2" / "model.onnx").write_bytes((models / "lstm" / "1" / "model.onnx").read_bytes())
    with serve("--http-port", "0", models=models) as running:
        yield running


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def choose(tab: Browser, name: str) -> None:
    tab.until(f"[...document.querySelectorAll('#models button')].some(b => b.textContent.startsWith({json.dumps(name)}))")
    tab.js(f"[...document.querySelectorAll('#models button')].find(b => b.textContent.startsWith({json.dumps(name)})).click()")
    tab.until(f"document.getElementById('name').textContent === {json.dumps(name)}")


def watch(tab: Browser, session_id: str) -> None:
    """By its button; the list is a second old at most."""
    button = json.dumps(f"#sessions button[data-session={json.dumps(session_id)}]")
    tab.until(f"!!document.querySelector({button})")
    tab.js(f"document.querySelector({button}).click()")


def test_a_session_is_watched_while_it_steps(served: Server, tab: Browser) -> None:
    with Client(served.address) as client, client.session("lstm", version="1") as session:
        session.step(X)
        tab.open(f"http://{served.http}/")
        choose(tab, "lstm/1")
        tab.until("document.getElementById('status').textContent === 'ready'")
        watch(tab, session.id)
        tab.until("document.getElementById('watch-step').textContent.includes('step 1 ')")
        before = tab.until("document.querySelector('#heat canvas')?.toDataURL()")
        for _ in range(6):
            session.step(X)
        tab.until("document.getElementById('watch-step').textContent.includes('step 7 ')")
        assert tab.js("document.querySelector('#heat canvas').toDataURL()") != before
        labels = tab.js("[...document.querySelectorAll('#heat canvas')].map(c => c.getAttribute('aria-label'))")
        assert [label.split(" ")[0] for label in labels] == ["h_0", "h_0", "c_0", "c_0"]
        h_0 = session.state["h_0"]
        assert f"from {h_0.min():.3g} to {h_0.max():.3g}, now" in labels[0]
        tab.until(
            "document.querySelector('#plots canvas').getAttribute('aria-label').startsWith('Throughput: steps a second ')"
        )
        tab.until("document.querySelectorAll('#tiles dd').length === 6")
    tab.until("document.getElementById('watch-note').textContent.includes('the session is over')")
    tab.js("document.getElementById('watch-stop').click()")
    assert tab.js("document.getElementById('watch').hidden")
    assert tab.complaints == []


def test_what_was_proven_is_said_of_the_served_file_only(served: Server, tab: Browser) -> None:
    tab.open(f"http://{served.http}/")
    choose(tab, "lstm/1")
    assert "in 49 cases" in tab.until("document.getElementById('proof-line').textContent")
    assert "begun with zeros" in tab.js("document.getElementById('assumptions').textContent")
    assert "h_0 ← h_n" in tab.js("document.getElementById('tensors').textContent")
    choose(tab, "lstm/2")
    assert "no report.json" in tab.js("document.getElementById('proof-line').textContent")
    assert tab.js("document.getElementById('assumptions').children.length") == 0


def test_names_are_text(served: Server, tab: Browser) -> None:
    tab.open(f"http://{served.http}/")
    choose(tab, f"{NAME}/1")
    assert tab.js("document.getElementById('assumptions').textContent") == NAME
    tab.js("document.getElementById('find-id').value = '<img src=x onerror=alert(1)>'")
    assert tab.js("document.querySelectorAll('main img').length + document.querySelectorAll('nav img').length") == 0
    assert tab.complaints == []


def test_scripts_in_the_page_are_not_run(served: Server, tab: Browser) -> None:
    """What the policy is for, should a text ever become markup."""
    tab.open(f"http://{served.http}/")
    choose(tab, "lstm/1")
    tab.js("window.ran = 0; document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">'); 0")
    tab.until("document.images[document.images.length - 1].complete")
    assert tab.js("window.ran") == 0
    assert any("Content Security Policy" in complaint for complaint in tab.complaints)
    tab.complaints.clear()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, False), (400, True)])
def test_nothing_is_wider_than_the_window(served: Server, tab: Browser, width: int, dark: bool) -> None:
    with Client(served.address) as client, client.session("lstm", version="1") as session:
        session.step(X)
        tab.open(f"http://{served.http}/", width, dark=dark)
        choose(tab, "lstm/1")
        watch(tab, session.id)
        tab.until("!!document.querySelector('#heat canvas')")
        assert tab.js("document.documentElement.scrollWidth") == width
        back = tab.js("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, back[4:-1].split(","))) < 200) is dark


def test_the_keyboard_reaches_a_session(served: Server, tab: Browser) -> None:
    with Client(served.address) as client, client.session("lstm", version="1") as session:
        session.step(X)
        tab.open(f"http://{served.http}/")
        choose(tab, "lstm/1")
        button = f"#sessions button[data-session={json.dumps(session.id)}]"
        tab.until(f"!!document.querySelector({json.dumps(button)})")
        for _ in range(20):
            tab.press("Tab", 9)
            if tab.js("document.activeElement.dataset.session") == session.id:
                break
        else:
            pytest.fail("no button of a session was reached")
        tab.press("Enter", 13)
        tab.until("document.getElementById('watch-step').textContent.includes('step 1 ')")
