"""A server that asks for tokens, and its callers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from statecell.oip import inference_pb2_grpc as oip_grpc
from statecell.v1 import inference_pb2_grpc as v1_grpc
from statecell_server.access.tokens import entry, issue

from tests.conftest import Serve, Server

NAMES = ("alice", "bob", "root")


class Stubs(NamedTuple):
    """Both protocols, as one caller."""

    v1: v1_grpc.InferenceServiceStub
    oip: oip_grpc.GRPCInferenceServiceStub


class _Shown(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Sends a header with every call."""

    def __init__(self, authorization: str) -> None:
        self._header = ("authorization", authorization)

    def _with(self, proceed: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        return proceed(details._replace(metadata=[*(details.metadata or ()), self._header]), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_stream = _with  # type: ignore[assignment]


class Guarded(NamedTuple):
    """`tokens`: by the caller's name."""

    server: Server
    tokens: dict[str, str]

    def channel(self, authorization: str) -> grpc.Channel:
        channel = grpc.insecure_channel(self.server.address)
        return grpc.intercept_channel(channel, _Shown(authorization)) if authorization else channel

    def stubs(self, authorization: str) -> Stubs:
        channel = self.channel(authorization)
        return Stubs(v1_grpc.InferenceServiceStub(channel), oip_grpc.GRPCInferenceServiceStub(channel))

    def of(self, name: str) -> Stubs:
        return self.stubs(f"Bearer {self.tokens[name]}")


def write_tokens(path: Path) -> dict[str, str]:
    """A token for each of NAMES; root is an admin."""
    tokens = {name: issue() for name in NAMES}
    path.write_text("\n".join(entry(name, token, admin=name == "root") for name, token in tokens.items()))
    return tokens


@pytest.fixture(scope="module", params=["http2", "grpcio"])
def guarded(
    serve: Serve, lstm_only: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Guarded]:
    path = tmp_path_factory.mktemp("access") / "tokens.toml"
    tokens = write_tokens(path)
    flags = ("--tokens", str(path), "--front", request.param, "--store", "memory", "--http-port", "0")
    with serve(*flags, models=lstm_only) as server:
        yield Guarded(server, tokens)
