"""Odd beginnings and endings: wrong options, closed outputs, signals; one line each, no traceback, no password."""

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from statecell_server.config import Config, ConfigError, without_secrets

from tests.conftest import LIMIT, Serve
from tests.server.caller import Caller

COMMAND = [sys.executable, "-m", "statecell_server", "--port", "0"]
SECRET = "hunter2"


def ended(*flags: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *flags], capture_output=True, text=True, timeout=LIMIT, check=False, **options)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("session_ttl", value) for value in (float("nan"), float("inf"), -1.0, 0.0, 1e12)),
        *(("drain_seconds", value) for value in (float("nan"), -0.5, float("inf"))),
        *(("poll_models", value) for value in (float("nan"), -3.0)),
        *(("store_timeout", value) for value in (float("inf"), 0.0)),
        *(("load_seconds", value) for value in (float("nan"), 0.0)),
        *(("max_batch", value) for value in (0, -4, 1 << 40)),
        *(("threads", value) for value in (0, 5000)),
        *(("max_message", value) for value in (0, 1 << 31)),
        pytest.param("state_memory", 10**5000, id="state_memory-5000 digits"),
        pytest.param("save_every", 10**5000, id="save_every-5000 digits"),
        ("port", 70_000),
    ],
)
def test_a_number_out_of_its_range_is_refused_by_name(tmp_path: Path, option: str, value: float) -> None:
    wanted = {"save_every": "--durability"}.get(option, f"--{option.replace('_', '-')}")
    with pytest.raises(ConfigError) as error:
        Config(models=tmp_path, **{option: value})  # type: ignore[arg-type]
    assert str(error.value).startswith(f"{wanted} is ")
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "url",
    [
        f"valkey://user:{SECRET}@host:port/0",
        f"valkey://user:{SECRET}@host/db",
        f"valkey://user:{SECRET}/x@host:6379/0",
        f"valkey://user:x/{SECRET}@host:6379/0",
        f"valkey://user:{SECRET}#x@host:6379/0",
        f"valkey://user:{SECRET}@@host:99999/0",
        f"mysql://user:{SECRET}@host/0",
        f"user:{SECRET}@host:6379",
        f"valkey://host:99999/0?password={SECRET}",
        f"{SECRET}://user@host",
    ],
)
def test_a_stores_password_is_in_no_message(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError) as error:
        Config(models=tmp_path, store=url)
    assert SECRET not in str(error.value)
    assert SECRET not in without_secrets(url)
    assert str(error.value).startswith("--store")


def test_a_stores_password_is_not_shown_with_the_configuration(tmp_path: Path) -> None:
    config = Config(models=tmp_path, store=f"valkey://user:{SECRET}@[::1]:6379/3")
    assert SECRET not in repr(config)
    assert without_secrets(config.store) == "valkey://***@[::1]:6379/3"


def test_a_store_that_does_not_answer_is_told_of_without_its_password(serve: Serve, tmp_path: Path) -> None:
    pytest.importorskip("valkey", reason="needs valkey-py: pip install 'statecell-server[valkey]'")
    log = tmp_path / "log"
    with log.open("w") as file, serve("--store", f"valkey://user:{SECRET}@127.0.0.1:1/0", stderr=file) as server:
        caller = Caller(server.address)
        with pytest.raises(Exception, match="store") as error:
            caller.create("lstm", durable=True)
        assert SECRET not in str(error.value)
        caller.channel.close()
        assert server.stop() == 0
    assert SECRET not in log.read_text()


@pytest.mark.parametrize("content", [b"+{not json\n", b"\xff\xfe\n", b'?"name"\n', b"![1, 2]\n", b"\n", b"[" * 60_000 + b"\n"])
def test_a_damaged_sequence_log_is_named(models: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "roll").write_bytes(content)
    one = tmp_path / "models"
    one.mkdir()
    (one / "lstm").symlink_to(models / "lstm")
    process = ended("--models", str(one), "--sequence-roll", str(tmp_path / "roll"), "--log-level", "ERROR")
    assert process.returncode == 2
    assert process.stderr.startswith(f"statecell-server: --sequence-roll {tmp_path / 'roll'} is damaged: line 1 is")
    assert len(process.stderr.splitlines()) == 1


def test_every_address_of_the_machine_is_warned_of_in_one_line(serve: Serve, lstm_only: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        log.open("w") as file,
        serve("--host", "0.0.0.0", "--insecure", "--log-level", "WARNING", models=lstm_only, stderr=file) as server,
    ):
        assert server.stop() == 0
    (line,) = log.read_text().splitlines()
    assert "WARNING" in line
    assert "--host 0.0.0.0: every machine that reaches port" in line


def test_sighup_finishes_what_is_in_flight_as_sigterm_does(serve: Serve, lstm_only: Path) -> None:
    with serve(models=lstm_only) as server:
        caller = Caller(server.address)
        session = caller.create("lstm")
        caller.step(session, np.zeros((1, 1, 10), np.float32))
        server.process.send_signal(signal.SIGHUP)
        assert server.process.wait(LIMIT) == 0
        caller.channel.close()


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    """The end to write to of a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


def test_a_server_whose_output_nobody_reads_serves_and_ends_well(lstm_only: Path, closed_pipe: int) -> None:
    command = [*COMMAND, "--models", str(lstm_only)]
    with killed(subprocess.Popen(command, stdout=closed_pipe, stderr=subprocess.PIPE, text=True)) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "standard output is closed" in line:
                process.terminate()
        assert process.wait(LIMIT) == 0
    assert not any("Traceback" in line or "Exception" in line for line in said)
    assert "stopped" in said[-1]


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_server_without_outputs_keeps_its_sockets_apart_from_them(lstm_only: Path, tmp_path: Path, closed: str) -> None:
    # `exec`: the process is the server itself, and its descriptors are to be seen.
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, "--models", str(lstm_only), "--drain-seconds", "1"]
    with killed(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)) as process:
        listening = Path(f"/proc/{process.pid}/net/tcp")
        sockets: set[str] = set()
        while not sockets & listeners(listening):
            assert process.poll() is None
            sockets = set(descriptors(process.pid).values())
        standard = [descriptors(process.pid)[number] for number in ("0", "1", "2")]
        assert not any(target.startswith("socket:") for target in standard)
        process.terminate()
        assert process.wait(LIMIT) == 0


@pytest.mark.parametrize("front", ["http2", "grpcio"])
def test_what_clients_leave_open_does_not_hold_up_the_end(serve: Serve, lstm_only: Path, front: str) -> None:
    """Watchers of the health and readers of the reflection, of which some have asked and some have not."""
    with serve("--front", front, "--drain-seconds", "60", models=lstm_only) as server, ExitStack() as stack:
        channels = [stack.enter_context(grpc.insecure_channel(server.address)) for _ in range(3)]
        watches = [
            health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service))
            for channel, service in zip(channels, ("", "lstm", "nobody"), strict=True)
        ]
        assert [next(watch).status for watch in watches] == [1, 1, 3]
        asked = [queue.SimpleQueue[reflection_pb2.ServerReflectionRequest | None]() for _ in range(2)]
        stubs = [reflection_pb2_grpc.ServerReflectionStub(channel) for channel in channels]
        streams = [stub.ServerReflectionInfo(iter(q.get, None)) for stub, q in zip(stubs, asked, strict=False)]
        asked[0].put(reflection_pb2.ServerReflectionRequest(list_services=""))
        assert next(streams[0]).HasField("list_services_response")
        began = time.monotonic()
        server.process.terminate()
        assert server.process.wait(LIMIT) == 0
        assert time.monotonic() - began < 30
        assert [[answer.status for answer in watch] for watch in watches] == [[2], [2], []]
        for stream, requests in zip(streams, asked, strict=True):
            assert list(stream) == []
            assert stream.code() == grpc.StatusCode.OK
            requests.put(None)


@contextmanager
def killed(process: "subprocess.Popen[Any]") -> Iterator["subprocess.Popen[Any]"]:
    """Whatever the test finds, nobody waits for it afterwards."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def descriptors(pid: int) -> dict[str, str]:
    """What each is, by its number; some come and go meanwhile."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found[entry.name] = os.readlink(entry)
    return found


def listeners(table: Path) -> set[str]:
    """The sockets that listen, as /proc/PID/fd names them."""
    rows = [line.split() for line in table.read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
