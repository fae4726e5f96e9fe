"""Who is let in: by gRPC on both fronts, by HTTP, and what the file may say."""

import functools
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from statecell.oip import inference_pb2 as oip
from statecell.v1 import inference_pb2 as pb
from statecell_server.access.tokens import Tokens, TokensError, entry, hashed, issue
from statecell_server.errors import Unauthenticated

from tests.server.access.conftest import Guarded, Stubs

CALLS: dict[str, Callable[[Stubs], object]] = {
    "unary": lambda stubs: stubs.v1.ListModels(pb.ListModelsRequest()),
    "direct": lambda stubs: stubs.v1.Step(pb.StepRequest(session_id="a")),
    "stream": lambda stubs: list(stubs.v1.StreamSteps(iter([pb.StreamStepsRequest()]))),
    "oip": lambda stubs: stubs.oip.ModelInfer(oip.ModelInferRequest(model_name="lstm")),
    "oip stream": lambda stubs: list(stubs.oip.ModelStreamInfer(iter([oip.ModelInferRequest(model_name="lstm")]))),
}
WRONG = {
    "none": ("", "no token"),
    "another": (f"Bearer {issue()}", "not one of this server's"),
    "other form": ("Basic YWxpY2U6", "another form"),
    "empty": ("Bearer ", "form"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("wrong", WRONG)
def test_nobody_is_let_in_without_a_token(guarded: Guarded, call: str, wrong: str) -> None:
    header, words = WRONG[wrong]
    with pytest.raises(grpc.RpcError) as caught:
        CALLS[call](guarded.stubs(header.rstrip()))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert words in str(caught.value.details())


def test_health_and_liveness_need_no_token(guarded: Guarded) -> None:
    stub = health_pb2_grpc.HealthStub(guarded.channel(""))
    assert stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    assert guarded.stubs("").oip.ServerLive(oip.ServerLiveRequest()).live
    assert _status(guarded, "/health/live", "") == _status(guarded, "/v2/health/ready", "") == 200


def test_http_asks_for_the_same_tokens(guarded: Guarded) -> None:
    good = f"Bearer {guarded.tokens['alice']}"
    for path in ("/v2", "/v2/models/lstm", "/metrics"):
        assert _status(guarded, path, "") == _status(guarded, path, f"Bearer {issue()}") == 401
        assert _status(guarded, path, good) == 200


def test_models_are_loaded_and_unloaded_by_admins_alone(guarded: Guarded) -> None:
    load = oip.RepositoryModelLoadRequest(model_name="lstm")
    unload = oip.RepositoryModelUnloadRequest(model_name="lstm")
    for call in (
        functools.partial(guarded.of("alice").oip.RepositoryModelLoad, load),
        functools.partial(guarded.of("alice").oip.RepositoryModelUnload, unload),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    path, alice = "/v2/repository/models/lstm/unload", f"Bearer {guarded.tokens['alice']}"
    assert _status(guarded, path, alice, b"{}") == 403
    guarded.of("root").oip.RepositoryModelLoad(load)
    assert _status(guarded, "/v2/repository/models/lstm/load", f"Bearer {guarded.tokens['root']}", b"{}") == 200


def test_a_changed_file_is_taken_up_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    path, old, new = tmp_path / "tokens.toml", issue(), issue()
    path.write_text(entry("alice", old, admin=False))
    tokens = Tokens(path)
    assert tokens.admit(f"bearer {old}").name == "alice"
    path.write_text("[alice")
    tokens.look()
    assert tokens.admit(f"Bearer {old}").name == "alice"
    path.write_text(entry("alice", new, admin=True))
    tokens.look()
    assert tokens.admit(f"Bearer {new}").admin
    with pytest.raises(Unauthenticated):
        tokens.admit(f"Bearer {old}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("alice", "not TOML"),
        ("alice = 1", "no caller"),
        ('["a b"]\nsha256 = ""', "no caller"),
        ("[alice]", "sha256 of 'alice'"),
        ('[alice]\nsha256 = "sct_x"', "sha256 of 'alice'"),
        (f'[alice]\nsha256 = "{hashed("x")}"\nrole = "king"', "role 'king'"),
        (f'[alice]\nsha256 = "{hashed("x")}"\nrule = "admin"', "unknown 'rule'"),
        (f'[alice]\nsha256 = "{hashed("x")}"\n[bob]\nsha256 = "{hashed("x")}"', "the same token"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_names_the_entry(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(TokensError, match=words):
        Tokens(path)


def test_the_command_adds_callers_whose_tokens_are_let_in(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "statecell_server.access.token", *words, "--file", str(path)]
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)

    alice, root = command("alice"), command("root", "--admin")
    again, odd = command("alice"), command("a b")
    tokens = Tokens(path)
    assert [tokens.admit(f"Bearer {made.stdout.strip()}").name for made in (alice, root)] == ["alice", "root"]
    assert tokens.admit(f"Bearer {root.stdout.strip()}").admin
    assert path.stat().st_mode & 0o777 == 0o600
    assert alice.stdout.strip() not in path.read_text()
    assert again.returncode == odd.returncode == 2
    assert "already" in again.stderr
    assert "no caller's name" in odd.stderr


def _status(guarded: Guarded, path: str, authorization: str, body: bytes | None = None) -> int:
    request = urllib.request.Request(f"http://{guarded.server.http}{path}", body)
    if authorization:
        request.add_header("Authorization", authorization)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
