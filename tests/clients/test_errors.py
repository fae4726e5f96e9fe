"""Every reason has its exception."""

import grpc
import pytest
import statecell_client
import statecell_client.errors as client_errors
import statecell_server.errors as server_errors
from google.rpc import error_details_pb2, status_pb2
from statecell.v1 import inference_pb2 as wire
from statecell_client import QueueFull, ServerUnreachable, StatecellError
from statecell_client.errors import from_rpc_error, from_step_error


def kinds(module: object, base: type[Exception]) -> list[type[Exception]]:
    return [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, base)]


def test_every_reason_that_a_server_gives_has_an_exception_of_that_name() -> None:
    ours = {getattr(kind, "reason"): kind.__name__ for kind in kinds(client_errors, StatecellError)}  # noqa: B009
    for kind in kinds(server_errors, server_errors.StatecellError):
        if kind is not server_errors.StatecellError:
            assert ours[getattr(kind, "reason")] == kind.__name__  # noqa: B009


def test_every_exception_is_public_and_the_public_names_are_sorted() -> None:
    public = statecell_client.__all__
    assert public == sorted(public)
    assert {kind.__name__ for kind in kinds(client_errors, StatecellError)} <= set(public)
    assert all(hasattr(statecell_client, name) for name in public)


def test_an_error_in_a_stream_says_what_an_error_of_a_call_says() -> None:
    error = wire.StepError(session_id="s", code=8, reason="QUEUE_FULL", message="4096 steps wait", metadata={"limit": "4096"})
    error.retry_delay.FromMilliseconds(250)
    decoded = from_step_error(error)
    assert isinstance(decoded, QueueFull)
    assert (decoded.code.name, decoded.metadata, decoded.retry_seconds) == ("RESOURCE_EXHAUSTED", {"limit": "4096"}, 0.25)
    assert decoded.may_pass
    assert decoded.settled


class Ended(grpc.RpcError):
    """How a call ends that has no details of ours."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[()]:
        return ()


class EndedTwice(Ended):
    """The server's status in the trailers, and a reset by a proxy behind it."""

    def __init__(self, said: bytes) -> None:
        super().__init__(grpc.StatusCode.CANCELLED, "Stream removed (RST_STREAM (Received RST_STREAM with error code 8))")
        self._said = said

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:  # type: ignore[override]
        return (("grpc-status-details-bin", self._said),)


def test_what_the_server_said_counts_where_a_proxy_reset_the_stream_behind_it() -> None:
    status = status_pb2.Status(code=14, message="the server is about to stop")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="DRAINING", metadata={"applied": "no", "answered": "3"}))
    error = from_rpc_error(EndedTwice(status.SerializeToString()), "a:1")
    assert (error.reason, error.code, str(error)) == ("DRAINING", grpc.StatusCode.UNAVAILABLE, "the server is about to stop")
    assert error.settled
    broken = from_rpc_error(EndedTwice(b"\xff"), "a:1")
    assert isinstance(broken, ServerUnreachable)
    assert "the call to a:1 broke off" in str(broken)


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Socket closed"),
        (grpc.StatusCode.CANCELLED, "Cancelled on the server side"),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
        (grpc.StatusCode.UNKNOWN, "Stream removed"),
    ],
)
def test_a_call_that_breaks_off_may_be_repeated_however_it_is_worded(code: grpc.StatusCode, details: str) -> None:
    error = from_rpc_error(Ended(code, details), "host:1")
    assert isinstance(error, ServerUnreachable)
    assert error.may_pass
    assert not error.settled
    assert "host:1" in str(error)


def test_a_servers_own_fault_is_not_repeated() -> None:
    error = from_rpc_error(Ended(grpc.StatusCode.UNKNOWN, "Unexpected <class 'KeyError'>"), "host:1")
    assert (error.may_pass, error.settled, error.reason) == (False, False, "UNKNOWN")


def test_where_the_server_cannot_tell_whether_a_step_was_applied_it_is_unsettled() -> None:
    error = wire.StepError(code=14, reason="STORE_UNAVAILABLE", message="no answer", metadata={"applied": "unknown"})
    assert not from_step_error(error).settled
    error.metadata["applied"] = "no"
    assert from_step_error(error).settled


def test_a_reason_that_this_release_does_not_know_is_still_told() -> None:
    decoded = from_step_error(wire.StepError(code=9, reason="SOMETHING_NEW", message="new"))
    assert type(decoded) is StatecellError
    assert (decoded.reason, str(decoded)) == ("SOMETHING_NEW", "new")
