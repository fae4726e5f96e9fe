"""Whatever a client sends, the server goes on, logs no traceback, and answers another client's steps to the bit."""

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hpack import Encoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from statecell.tensor import pack
from statecell.v1 import inference_pb2 as pb

from tests.conftest import Serve, Server
from tests.server.caller import Caller
from tests.server.transport.http2.raw import PREFACE, Raw, heads, message

STEP, STREAM, UNKNOWN = "/statecell.v1.InferenceService/Step", "/statecell.v1.InferenceService/StreamSteps", "/no/Such"
X = np.random.default_rng(7).standard_normal((2000, 1, 10), dtype=np.float32)


@pytest.fixture(scope="module")
def log() -> Iterator[Path]:
    with tempfile.NamedTemporaryFile(suffix=".log") as file:
        yield Path(file.name)


@pytest.fixture(scope="module")
def server(serve: Serve, log: Path) -> Iterator[Server]:
    with log.open("w") as errors, serve("--log-level", "ERROR", stderr=errors) as running:
        yield running
        assert running.stop() == 0
    assert log.read_text() == ""


class Steady:
    """A session that goes on."""

    def __init__(self, server: Server) -> None:
        self.caller = Caller(server.address)
        self.session = self.caller.create("lstm")
        self.expected = self.caller.infer("lstm", X)["y"]
        self.index = 0

    def step(self) -> None:
        t = self.index % len(X)
        if not t:
            self.session = self.caller.create("lstm")
        assert np.array_equal(self.caller.step(self.session, X[t : t + 1], t), self.expected[t : t + 1])
        self.index += 1


@pytest.fixture(scope="module")
def steady(server: Server) -> Iterator[Steady]:
    steady = Steady(server)
    yield steady
    steady.caller.channel.close()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


bodies = st.sampled_from(
    [
        pb.StepRequest(session_id="nobody", inputs=[pack("x", X[:1])]).SerializeToString(),
        pb.StreamStepsRequest(session_ids=["nobody"], inputs=[pack("x", X[:1])]).SerializeToString(),
        b"",
        b"\xff\xff",
    ]
)
words = st.sampled_from([STEP, STREAM, UNKNOWN]).flatmap(
    lambda path: st.sampled_from([{}, {"grpc-timeout": "1m"}, {"grpc-encoding": "gzip"}, {":method": "GET"}]).map(
        lambda more: Encoder().encode(heads(path, more))
    )
)
flags = st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D]) | st.integers(0, 255)
streams = st.sampled_from([1, 3, 5, 7, 9, 1, 3, 5, 0, 2, (1 << 31) - 1])
numbers = st.sampled_from([0, 1, 65_535, (1 << 31) - 1, 1 << 31]).map(lambda n: n.to_bytes(4, "big"))
setting = st.tuples(st.integers(0, 7), numbers).map(lambda s: s[0].to_bytes(2, "big") + s[1])
frames = st.one_of(
    st.builds(frame, st.just(1), st.sampled_from([4, 4, 4, 5, 0]), st.sampled_from([1, 3, 5, 7, 9]), words),
    st.builds(frame, st.just(0), st.sampled_from([0, 0, 1]), st.sampled_from([1, 3, 5, 7, 9]), bodies.map(message)),
    st.builds(frame, st.just(0), st.sampled_from([0, 1, 8, 9]), streams, st.binary(max_size=30)),
    st.builds(frame, st.just(3), st.just(0), st.sampled_from([1, 3, 5, 7, 9]), numbers),
    st.builds(frame, st.just(4), st.sampled_from([0, 0, 1]), st.just(0), st.lists(setting, max_size=3).map(b"".join)),
    st.builds(frame, st.just(6), st.sampled_from([0, 1]), st.just(0), st.just(b"12345678")),
    st.builds(frame, st.just(8), st.just(0), streams, numbers),
    st.builds(frame, st.just(9), st.sampled_from([0, 4]), streams, words),
    st.builds(frame, st.integers(0, 12), flags, streams, st.binary(max_size=20)),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Frames, most of them right, some of their bytes changed, some missing."""
    data = bytearray(b"".join(draw(st.lists(frames, max_size=25))))
    for _ in range(draw(st.integers(0, 3))):
        if data:
            at = draw(st.integers(0, len(data) - 1))
            data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(mutated(), st.booleans(), st.integers(0, 200))
def test_no_bytes_harm_the_server_or_another_client(server: Server, steady: Steady, data: bytes, greet: bool, cut: int) -> None:
    with Raw(server.address, greet=greet) as raw:
        try:
            raw.socket.sendall((b"" if greet else PREFACE) + data[:cut])
            raw.socket.sendall(data[cut:])
            raw.socket.shutdown(socket.SHUT_WR)
            while raw.socket.recv(1 << 16):
                pass
        except OSError:
            pass  # it was shown the door
        steady.step()
    assert server.process.poll() is None
