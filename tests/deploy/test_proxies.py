"""Through HAProxy and nginx: both speak HTTP/2 of their own to the server."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from statecell.tensor import pack, unpack
from statecell.v1 import inference_pb2 as pb

from tests.conftest import Server
from tests.server.caller import Caller, reason_of

HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend in
  bind 127.0.0.1:{port} proto h2
  default_backend out
backend out
  server one {address} proto h2
"""
NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 0;
  server {{
    listen 127.0.0.1:{port} http2;
    location / {{ grpc_pass grpc://{address}; }}
  }}
}}
"""
COMMANDS = {"haproxy": (HAPROXY, ("haproxy", "-f")), "nginx": (NGINX, ("nginx", "-c"))}


@pytest.fixture(params=COMMANDS)
def proxied(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[Caller]:
    config, command = COMMANDS[request.param]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed (apt-get install {command[0]})")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "config").write_text(config.format(port=port, address=server.address, folder=tmp_path))
    with subprocess.Popen([*command, str(tmp_path / "config")], stderr=subprocess.DEVNULL) as process:
        caller = Caller(f"127.0.0.1:{port}")
        grpc.channel_ready_future(caller.channel).result(30)
        yield caller
        caller.channel.close()
        process.terminate()


@pytest.fixture
def caller(server: Server) -> Iterator[Caller]:
    caller = Caller(server.address)
    yield caller
    caller.channel.close()


def test_a_session_is_the_same_through_a_proxy(proxied: Caller, caller: Caller) -> None:
    x = np.random.default_rng(3).standard_normal((3000, 1, 10), dtype=np.float32)
    session, streamed = proxied.create("lstm"), proxied.create("lstm")
    y = caller.infer("lstm", x)["y"]
    assert np.array_equal(proxied.step(session, x[:1], 0), y[:1])
    assert np.array_equal(proxied.step(session, x[1:], 1), y[1:])
    messages = [
        pb.StreamStepsRequest(session_ids=[streamed], inputs=[pack("x", x[t : t + 30])], step_indexes=[t])
        for t in range(0, 3000, 30)
    ]
    assert np.array_equal(np.concatenate([unpack(reply.outputs[0]) for reply in proxied.stream(messages)]), y)


def test_many_calls_errors_and_deadlines_pass_a_proxy(proxied: Caller, caller: Caller) -> None:
    for _ in range(300):
        with pytest.raises(grpc.RpcError) as error:
            proxied.step("nobody", np.zeros((1, 1, 10), np.float32))
        assert reason_of(error.value) == "SESSION_NOT_FOUND"
    session = proxied.create("lstm")
    # Its answer has 56 MB: a longer one would be refused at once.
    long = pb.StepRequest(session_id=session, inputs=[pack("x", np.zeros((700_000, 1, 10), np.float32))])
    with pytest.raises(grpc.RpcError) as error:
        proxied.stub.Step(long, timeout=0.2)
    assert error.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
    end = time.monotonic() + 120
    while caller.index(session) or not steps(proxied, session):
        assert time.monotonic() < end, "the step that was given up holds the session"
        time.sleep(0.05)


def steps(caller: Caller, session: str) -> bool:
    """Whether the session takes its first step."""
    try:
        caller.step(session, np.zeros((1, 1, 10), np.float32), 0)
    except grpc.RpcError as error:
        if reason_of(error) != "STEP_OUT_OF_ORDER":
            raise
        return False
    return True
