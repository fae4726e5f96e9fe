"""What the server is told: by flags, the environment and a file; and what it says of it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from statecell.v1 import inference_pb2 as pb
from statecell_server.config import OPTIONS, Config, ConfigError
from statecell_server.settings import BY_KEY, Settings, read

from tests.conftest import LIMIT, Serve
from tests.server.caller import Caller, reason_of

SECRET = "hunter2hunter2"


def told(tmp_path: Path, text: str = "", environ: dict[str, str] | None = None, **flags: Any) -> Settings:
    file = tmp_path / "statecell.toml"
    file.write_text(text)
    return read({"config": file, "models": str(tmp_path), **flags}, environ or {})


def ended(*flags: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "statecell_server", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False, env={**os.environ, **environ})


def test_a_flag_comes_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    text = "max_batch = 1\nmax_queue = 2\nthreads = 3\n"
    environ = {"STATECELL_MAX_BATCH": "10", "STATECELL_MAX_QUEUE": "20"}
    config = told(tmp_path, text, environ, max_batch=["100"]).config()
    assert (config.max_batch, config.max_queue, config.threads, config.port) == (100, 20, 3, 50051)


def test_a_models_own_setting_comes_before_what_is_said_of_all(tmp_path: Path) -> None:
    text = "session_ttl = 9\n[models.tagger]\nsession_ttl = 5\nmax_batch = 2\n"
    environ = {"STATECELL_MAX_QUEUE": "70,tagger=7"}
    config = told(tmp_path, text, environ, session_ttl=["8", "other=30"], max_batch=["tagger=3"]).config()
    tagger = config.of("tagger")
    assert (config.session_ttl, tagger.session_ttl, config.of("other").session_ttl, config.longest_ttl) == (8, 5, 30, 30)
    assert (tagger.max_batch, tagger.max_queue, config.max_batch, config.max_queue) == (3, 7, 256, 70)


def test_every_option_can_be_said_in_all_three_ways_and_is_printed_so_that_it_can_be_read_again(tmp_path: Path) -> None:
    said = {
        "models": str(tmp_path), "host": "::1", "port": "1", "http_port": "2", "state_memory": "3KiB", "spill_memory": "4000",
        "session_memory": "5KiB", "session_ttl": "6.5", "max_batch": "7", "max_queue": "8", "max_message": "9KiB",
        "max_metadata": "10KiB", "max_connections": "11", "connection_memory": "12MiB", "idle_connection": "13.0",
        "tls_cert": "a", "tls_key": "b", "tls_client_ca": 'quoted "c" \\ é', "threads": "14", "drain_seconds": "15.0",
        "sequence_roll": "d", "store": "valkey://user@host:1/0", "store_password_file": "e", "store_timeout": "16.0",
        "save_every": "every=17", "max_record": "18KiB", "poll_models": "19.0", "load_seconds": "20.0",
        "trial_load": "never", "runtime": "torchscript", "device": "cuda:21", "device_memory": "22GiB",
        "state_arena": "host", "batch_variance": "share", "front": "grpcio", "log_level": "ERROR",
        "log_format": "json", "access_log": "true", "otlp_endpoint": "http://collector:4317",
        "non_finite": "allow", "sequence_start": "restart", "workers": "1", "tokens": "f", "state_key": "g", "insecure": "true",
    }  # fmt: skip
    if missing := OPTIONS.keys() - said.keys():
        pytest.fail(f"no value to try {missing} with: say one here")
    flags = {name: [text] if OPTIONS[name].per_model else text for name, text in said.items()}
    by_flags = read(flags, {})
    by_environment = read({}, {OPTIONS[name].environment: text for name, text in said.items()})
    file = tmp_path / "printed.toml"
    file.write_text(by_flags.shown())
    by_file = read({"config": file}, {})
    assert by_flags.config() == by_environment.config() == by_file.config()
    for settings, source in ((by_flags, "flag"), (by_environment, "environment"), (by_file, "file")):
        lines = settings.shown().splitlines()[2:]
        assert [line.rpartition("  # ")[2] for line in lines] == [source] * len(OPTIONS)
    default = Config(models=tmp_path)
    assert read({"models": str(tmp_path), "workers": "2"}, {}).config().workers == 2  # which some of the others forbid
    for one in fields(Config):
        if one.name in OPTIONS and one.name not in ("models", "trial_load", "workers"):
            assert getattr(by_flags.config(), one.name) != getattr(default, one.name), one.name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_bacth = 3", "FILE: max_bacth is no setting (did you mean max_batch?)"),
        ('max_batch = "many"', "FILE: max_batch is 'many', expected a whole number of 1 to 65536"),
        ("max_batch = true", "FILE: max_batch is true, expected a whole number"),
        ("max_batch = 1.5", "FILE: max_batch is 1.5, expected a whole number"),
        ("max_batch = [1]", "FILE: max_batch is [1], expected a whole number"),
        ("session_ttl = nan", "FILE: session_ttl is nan, expected seconds of 0.001"),
        ("host = 1", "FILE: host is 1, expected a string"),
        ('front = "http3"', "FILE: front is 'http3', expected http2 or grpcio"),
        ('device = "tpu"', "FILE: device is 'tpu', expected cpu, cuda, cuda:N or auto"),
        ('models = "m"', "FILE: models is 'm', expected [models.NAME] for a model's settings; the folder is model_repository"),
        ("models.lstm = 1", "FILE: models.lstm is 1, expected a section [models.lstm]"),
        ("[models.lstm]\nsesion_ttl = 3", "FILE: models.lstm.sesion_ttl is no setting (did you mean session_ttl?)"),
        ("[models.lstm]\nport = 3", "FILE: models.lstm.port is for all models: put it above the sections"),
        ("[models.lstm]\nmax_queue = 0", "FILE: models.lstm.max_queue is 0, expected a whole number of 1"),
        ("max_batch =", "--config FILE is no TOML"),
        ("x = " + "[" * 10_000, "--config FILE is no TOML"),
        (f"max_batch = {'9' * 5000}", "--config FILE is no TOML"),
        (f'store = "mysql://user:{SECRET}@host/0"', "expected memory or valkey://host:port/db"),
        (f'store = "valkey://user:{SECRET}@host/0"\nstore_password_file = "x"', "expected one of them"),
        ('store_password_file = "x"', "--store-password-file is x, and --store is '', which has no password"),
    ],
)
def test_what_cannot_be_meant_in_a_file_is_named_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        told(tmp_path, text).config()
    assert says.replace("FILE", str(tmp_path / "statecell.toml")) in str(error.value)
    assert SECRET not in str(error.value)
    assert len(str(error.value)) < 500


def test_what_cannot_be_meant_elsewhere_is_named_by_where_it_was_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^STATECELL_MAX_BATCH is 'x', expected a whole number"):
        told(tmp_path, environ={"STATECELL_MAX_BATCH": "x"})
    with pytest.raises(ConfigError, match=r"^--max-batch lstm is 'x', expected a whole number"):
        told(tmp_path, max_batch=["lstm=x"])
    with pytest.raises(ConfigError, match=r"^--max-batch is '=3', expected NAME=VALUE"):
        told(tmp_path, max_batch=["=3"])
    with pytest.raises(ConfigError, match=r"^--config .*nowhere cannot be read: No such file"):
        read({"config": tmp_path / "nowhere"}, {})


def test_the_environment_may_have_other_variables_and_a_likely_mistake_is_noted(tmp_path: Path) -> None:
    environ = {
        "STATECELL_MAX_BACTH": "3",
        "STATECELL_SERVER": "localhost:1",
        "STATECELL_PORT": "tcp://10.0.0.1:50051",
        "STATECELL_PORT_50051_TCP_ADDR": "10.0.0.1",
        "STATECELL_HOST": "",
    }
    settings = told(tmp_path, environ=environ)
    assert settings.config() == Config(models=tmp_path, trial_load="auto")
    assert "the environment's STATECELL_MAX_BACTH is no setting (did you mean STATECELL_MAX_BATCH?)" in settings.notes
    assert any("STATECELL_PORT is 'tcp://10.0.0.1:50051', a Kubernetes Service's address" in note for note in settings.notes)


def test_print_config_shows_where_each_value_came_from_and_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "statecell.toml"
    file.write_text(f'model_repository = "{tmp_path}"\n[models.lstm]\nsession_ttl = 5\n')
    store = f"valkey://user:{SECRET}@host:6379/0?password={SECRET}"
    shown = ended("--config", str(file), "--max-batch", "7", "--print-config", STATECELL_STORE=store)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert SECRET not in shown.stdout
    assert 'store = "valkey://user@host:6379/0"  # environment; without what is secret in it' in shown.stdout
    assert "max_batch = 7  # flag" in shown.stdout
    printed = tomllib.loads(shown.stdout)
    assert printed["models"] == {"lstm": {"session_ttl": 5.0}}
    assert set(printed) - {"models"} <= set(BY_KEY)


def test_a_section_of_no_model_is_named_with_the_closest(lstm_only: Path, tmp_path: Path) -> None:
    file = tmp_path / "statecell.toml"
    file.write_text("[models.lstn]\nsession_ttl = 5\n")
    process = ended("--models", str(lstm_only), "--port", "0", "--log-level", "ERROR", STATECELL_CONFIG=str(file))
    assert process.returncode == 2
    expected = "models.lstn has settings (session_ttl), but 'lstn' is no model; there are lstm (did you mean lstm?)"
    assert process.stderr == f"statecell-server: {expected}\n"


def test_models_have_their_own_idle_time(serve: Serve) -> None:
    with serve("--session-ttl", "lstm=0.5") as server:
        caller = Caller(server.address)
        short, long = caller.create("lstm"), caller.create("gru")
        until, here = time.monotonic() + 20, {short, long}
        while short in here and time.monotonic() < until:
            time.sleep(0.2)
            here = {session.session_id for session in caller.stub.ListSessions(pb.ListSessionsRequest()).sessions}
        assert here == {long}
        with pytest.raises(grpc.RpcError, match=r"was idle for 0\.5 s and is gone") as error:
            caller.index(short)
        assert reason_of(error.value) == "SESSION_EXPIRED"
        caller.channel.close()


@pytest.fixture
def guarded_redis(tmp_path: Path) -> Iterator[int]:
    """The port of a redis-server that wants SECRET."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "redis.conf").write_text(f'port {port}\nbind 127.0.0.1\nrequirepass {SECRET}\nsave ""\ndir {tmp_path}\n')
    with subprocess.Popen(["redis-server", str(tmp_path / "redis.conf")], stdout=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 10
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    assert time.monotonic() < until, "redis-server does not listen"
                    time.sleep(0.05)
            yield port
        finally:
            process.terminate()


def test_a_stores_password_comes_from_a_file_and_is_nowhere_else(
    serve: Serve, lstm_only: Path, guarded_redis: int, tmp_path: Path
) -> None:
    password, log = tmp_path / "password", tmp_path / "log"
    flags = ("--store", f"valkey://default@127.0.0.1:{guarded_redis}/0", "--store-password-file", str(password))
    password.write_text(f"{SECRET}\n")
    with log.open("w") as file, serve(*flags, "--log-level", "DEBUG", models=lstm_only, stderr=file) as server:
        caller = Caller(server.address)
        caller.step(caller.create("lstm", durable=True), np.zeros((1, 1, 10), np.float32))
        caller.channel.close()
        assert SECRET not in Path(f"/proc/{server.process.pid}/cmdline").read_text()
        assert server.stop() == 0
    assert SECRET not in log.read_text()
    password.write_text("another\n")
    with serve(*flags, models=lstm_only) as server:
        caller = Caller(server.address)
        with pytest.raises(grpc.RpcError) as error:
            caller.create("lstm", durable=True)
        assert reason_of(error.value) == "STORE_UNAVAILABLE"
        caller.channel.close()


@pytest.mark.parametrize(
    ("content", "says"), [(None, "No such file"), (b"", "is empty"), (b"a\nb\n", "more than one line"), (b"\xff", "no UTF-8")]
)
def test_a_password_file_that_is_none_is_named(lstm_only: Path, tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    flags = ("--models", str(lstm_only), "--port", "0", "--store", "valkey://127.0.0.1:1", "--store-password-file", str(path))
    process = ended(*flags)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"statecell-server: --store-password-file {path} ")
    assert says in line
