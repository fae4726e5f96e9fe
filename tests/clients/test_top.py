"""statecell top against a real server."""

import json
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from statecell_client import Client
from statecell_client.cli.metrics import between, read

from tests.conftest import LIMIT, Serve, Server
from tests.server.access.conftest import write_tokens
from tests.server.transport.test_tls import Files

COMMAND = [sys.executable, "-m", "statecell_client", "top"]
BUCKETS = """statecell_run_seconds_bucket{le="0.001",model="m\\\\\\"",version="1"} 0.0
statecell_run_seconds_bucket{le="0.002",model="m\\\\\\"",version="1"} 10.0
statecell_run_seconds_bucket{le="+Inf",model="m\\\\\\"",version="1"} 10.0
statecell_steps_total{model="m\\\\\\"",version="1"} 10.0
"""


@pytest.fixture(scope="module")
def server(serve: Serve) -> Iterator[Server]:
    with serve("--http-port", "0") as running:
        yield running


@contextmanager
def stepping(server: Server) -> Iterator[None]:
    over = threading.Event()

    def step() -> None:
        with Client(server.address) as client, client.session("lstm") as session:
            while not over.is_set():
                session.step(np.zeros(10, np.float32))
                time.sleep(0.01)

    thread = threading.Thread(target=step)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def top(server: Server, *flags: str) -> "subprocess.CompletedProcess[str]":
    command = [*COMMAND, "--http", server.http, *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False, env={"COLUMNS": "200"})


def test_json_says_what_was_done_meanwhile(server: Server) -> None:
    with stepping(server):
        time.sleep(0.5)
        done = top(server, "--once", "--json")
    assert done.returncode == 0, done.stderr
    models = {entry["model"]: entry for entry in json.loads(done.stdout)}
    lstm = models["lstm"]
    assert 5 < lstm["steps"] < 110
    assert lstm["rows"] == 1
    assert 0 < lstm["run_p50"] <= lstm["run_p99"]
    assert lstm["live"] == 1
    assert 0 < lstm["state_bytes"] < lstm["state_limit_bytes"]
    other = next(entry for name, entry in models.items() if name != "lstm")
    assert other["steps"] == 0
    assert other["run_p50"] is None


def test_a_table_off_a_terminal_has_every_model_whole(server: Server) -> None:
    done = top(server, "--once")
    assert done.returncode == 0, done.stderr
    assert "lstm/1" in done.stdout
    assert "steps/s" in done.stdout


def test_it_ends_quietly_by_ctrl_c(server: Server) -> None:
    with subprocess.Popen(
        [*COMMAND, "--http", server.http, "--interval", "0.1", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 0
        assert process.stderr.read() == ""


def test_it_ends_quietly_when_nobody_reads(server: Server) -> None:
    with subprocess.Popen(
        [*COMMAND, "--http", server.http, "--interval", "0.1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        process.wait(LIMIT)
        assert process.stderr.read() == ""


def test_where_nothing_listens_it_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "--http", "127.0.0.1:1"], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 1
    assert "--http-port" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_shows_who_it_is_where_the_server_asks(serve: Serve, tmp_path: Path) -> None:
    files = Files(tmp_path)
    flags = ["--tls-cert", str(files.cert), "--tls-key", str(files.key), "--tls-client-ca", str(files.ca)]
    own = ["--tls-ca", str(files.ca), "--tls-cert", str(files.client_cert), "--tls-key", str(files.client_key)]
    with serve("--http-port", "0", *flags) as server:
        for known, code in ((own, 0), (own[:2], 1)):
            command = [*COMMAND[:-1], *known, "top", "--http", server.http, "--once", "--json"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
            assert done.returncode == code, done.stderr
            assert "Traceback" not in done.stderr


def test_names_with_quotes_and_quantiles_are_read() -> None:
    now = read(BUCKETS)
    (key,) = now
    assert key == ('m\\"', "1")
    figures = between({}, now, 2.0)[key]
    assert figures.steps == 5
    assert figures.run == pytest.approx((0.0015, 0.00199))
    assert math.isnan(between(now, now, 2.0)[key].run[0])


def test_a_server_that_asks_for_tokens_is_shown_one(serve: Serve, tmp_path: Path) -> None:
    token = write_tokens(tmp_path / "tokens.toml")["bob"]
    (tmp_path / "bob.token").write_text(f"{token}\n")
    with serve("--http-port", "0", "--tokens", str(tmp_path / "tokens.toml")) as server:
        refused = top(server, "--once")
        assert refused.returncode == 1
        assert "Unauthorized; say who asks: statecell --token-file FILE top" in refused.stderr
        command = [*COMMAND[:-1], "--token-file", str(tmp_path / "bob.token"), "top", "--http", server.http, "--once", "--json"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        assert shown.returncode == 0, shown.stderr
        assert {line["model"] for line in json.loads(shown.stdout)} >= {"lstm"}
