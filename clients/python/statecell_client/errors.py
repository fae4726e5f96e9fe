"""What a call can fail with: one exception a reason, each says whose fault it is and what to do."""

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from statecell.v1 import inference_pb2 as wire

_BROKEN = ("RST_STREAM", "Stream removed", "Internal error from Core")
"""How gRPC words it, with other codes than UNAVAILABLE, when a server or a proxy drops a call."""
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class StatecellError(Exception):
    """Base of all that a call can fail with.

    `reason` is stable and the same in every client ("SHAPE_MISMATCH"); `metadata` names what came and what was expected;
    `code` is gRPC's; `retry_seconds` is set where the same call may succeed later. Where `settled`, the call surely changed
    nothing; otherwise its reply may have been lost on the way.
    """

    reason = "UNKNOWN"
    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        code: grpc.StatusCode | None = None,
        metadata: dict[str, str] | None = None,
        retry_seconds: float | None = None,
        settled: bool = True,
    ) -> None:
        super().__init__(message)
        self.reason = reason or self.reason
        self.code = code or self.code
        self.metadata = metadata or {}
        self.retry_seconds = retry_seconds
        self.settled = settled

    @property
    def may_pass(self) -> bool:
        """Whether the same call may succeed when it is sent again."""
        return self.code is grpc.StatusCode.UNAVAILABLE or self.retry_seconds is not None


class ModelNotFound(StatecellError):
    """The caller's fault: the server has no such model or version. `client.models()` tells what it has."""

    reason = "MODEL_NOT_FOUND"


class ModelRefused(StatecellError):
    """The operator's fault: the model's files are not what a server can load."""

    reason = "MODEL_REFUSED"


class ModelInUse(StatecellError):
    """The caller's fault: a model cannot be unloaded while it has sessions."""

    reason = "MODEL_IN_USE"


class SessionExists(StatecellError):
    """The caller's fault: an Open Inference sequence starts under the id of a live one."""

    reason = "SESSION_EXISTS"


class SessionGone(StatecellError):
    """There is no such session any more. Create it again, from a snapshot if you have one."""

    reason = "SESSION_GONE"
    code = grpc.StatusCode.NOT_FOUND


class SessionNotFound(SessionGone):
    """The caller's fault: the session was never there, or was deleted."""

    reason = "SESSION_NOT_FOUND"


class SessionExpired(SessionGone):
    """Nobody's fault: the session was idle for longer than the server keeps one."""

    reason = "SESSION_EXPIRED"


class SessionEvicted(SessionGone):
    """Nobody's fault: the server needed the session's memory. A durable session is never evicted."""

    reason = "SESSION_EVICTED"


class SessionLost(SessionGone):
    """The server's fault: it was restarted. A durable session outlives that."""

    reason = "SESSION_LOST"


class StepOutOfOrder(StatecellError):
    """The caller's fault: somebody else steps the same session; `metadata` names the expected step_index."""

    reason = "STEP_OUT_OF_ORDER"


class StepUnsettled(StatecellError):
    """The session may not stand where its caller believes: the step before was cancelled or its reply given up, or a stream
    that had gone ahead was closed early.

    Read `session.state` and go on from there; or repeat that step with the same input, and it is applied once.
    """

    reason = "STEP_UNSETTLED"
    code = grpc.StatusCode.FAILED_PRECONDITION


class StepInFlight(StatecellError):
    """The caller's fault: another thread or task is stepping this session object. One step at a time."""

    reason = "STEP_IN_FLIGHT"
    code = grpc.StatusCode.FAILED_PRECONDITION


class InvalidRequest(StatecellError):
    """The caller's fault: an input or a field is missing, unknown, or contradicts another."""

    reason = "INVALID_REQUEST"


class ShapeMismatch(StatecellError):
    """The caller's fault: a tensor's shape is not what the model's spec says."""

    reason = "SHAPE_MISMATCH"


class DtypeMismatch(StatecellError):
    """The caller's fault: a tensor's dtype is not what the model's spec says and does not convert safely."""

    reason = "DTYPE_MISMATCH"


class EmptyTensor(StatecellError):
    """The caller's fault: a tensor has an axis of size 0."""

    reason = "EMPTY_TENSOR"


class NonFiniteInput(StatecellError):
    """The caller's fault: NaN or infinity in an input."""

    reason = "NON_FINITE_INPUT"


class InputRefused(StatecellError):
    """The caller's fault as a rule: the model cannot be run on this input, such as a token beyond its vocabulary."""

    reason = "INPUT_REFUSED"


class NotStreamable(StatecellError):
    """The model's nature: it has no sessions, because a run in pieces differs from the whole run. Use `client.infer`."""

    reason = "NOT_STREAMABLE"


class SnapshotMismatch(StatecellError):
    """The snapshot is damaged, or belongs to another model or another build of this one."""

    reason = "SNAPSHOT_MISMATCH"


class QueueFull(StatecellError):
    """Nobody's fault: more steps wait than the server will queue, and did so until the client gave up."""

    reason = "QUEUE_FULL"


class StateBudgetExceeded(StatecellError):
    """Nobody's fault: the server's memory for states is taken. Close sessions, or give the server more."""

    reason = "STATE_BUDGET_EXCEEDED"


class Draining(StatecellError):
    """Nobody's fault: the server is about to stop. Name more than one address and another one serves."""

    reason = "DRAINING"


class StoreUnavailable(StatecellError):
    """The store's fault: it does not answer, so no step of a durable session can be acknowledged. Repeat the step later."""

    reason = "STORE_UNAVAILABLE"


class StoreFull(StatecellError):
    """The operator's fault: the store has no room for the state. Nothing is lost; repeat the step later."""

    reason = "STORE_FULL"


class SessionContended(StatecellError):
    """The caller's fault as a rule: the session is stepped on two servers at once, and this step lost the race each time."""

    reason = "SESSION_CONTENDED"


class ServerUnreachable(StatecellError):
    """No server answers at the address: it is not running, the address is wrong, or the network is down."""

    reason = "UNAVAILABLE"
    code = grpc.StatusCode.UNAVAILABLE


class Unauthenticated(StatecellError):
    """The caller's fault: the server asks for a token, and got none of its own. `Client(…, token=…)`."""

    reason = "UNAUTHENTICATED"
    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(StatecellError):
    """The caller's fault: the call needs a role that the token does not have."""

    reason = "PERMISSION_DENIED"
    code = grpc.StatusCode.PERMISSION_DENIED


class InternalError(StatecellError):
    """The server's fault: a run failed for a reason that is not in its input. The server's log has it."""

    reason = "INTERNAL"
    code = grpc.StatusCode.INTERNAL


class DeadlineExceeded(StatecellError):
    """The call took longer than the client waits. Give `Client(…, retry=Retry(timeout=…))` more, or ask for less at once."""

    reason = "DEADLINE_EXCEEDED"
    code = grpc.StatusCode.DEADLINE_EXCEEDED


def _reasons(kind: type[StatecellError]) -> dict[str, type[StatecellError]]:
    found = {kind.reason: kind}
    for child in kind.__subclasses__():
        found |= _reasons(child)
    return found


_BY_REASON = _reasons(StatecellError)


def from_rpc_error(error: grpc.RpcError, address: str) -> StatecellError:
    """The exception for a call that ended with an error status, from the google.rpc details where there are any."""
    code: grpc.StatusCode = error.code()
    status = _said(error)
    details = status.details if status is not None else []
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    if any(detail.Unpack(info) for detail in details):
        delay = retry.retry_delay if any(detail.Unpack(retry) for detail in details) else None
        assert status is not None, "it has details"
        return _build(_CODES.get(status.code, code), info.reason, status.message or error.details(), info.metadata, delay)
    message = error.details() or code.name
    if code is grpc.StatusCode.UNAVAILABLE:
        message = f"no statecell server answers at {address} ({message}); start one there or correct the address"
        return ServerUnreachable(message, settled=False)
    if code is grpc.StatusCode.CANCELLED or any(sign in message for sign in _BROKEN):
        return ServerUnreachable(f"the call to {address} broke off ({message})", settled=False)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        message = f"what answers at {address} is not a statecell server of this release ({message})"
    if code is grpc.StatusCode.UNAUTHENTICATED:  # before anything was done
        return Unauthenticated(f"{address}: {message}")
    kind = DeadlineExceeded if code is grpc.StatusCode.DEADLINE_EXCEEDED else StatecellError
    return kind(message, reason=code.name, code=code, settled=False)


def _said(error: grpc.RpcError) -> status_pb2.Status | None:
    """The server's own words, also where a proxy has ended the call in another way behind them, as HAProxy does by RST_STREAM.

    grpc_status.rpc_status refuses those, as their code is another one than the call's.
    """
    trailers: Any = error.trailing_metadata()  # pairs, or None
    for key, value in trailers or ():
        if key == "grpc-status-details-bin":
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def from_step_error(error: wire.StepError) -> StatecellError:
    """The exception for one session's failed step in a stream's reply."""
    delay = error.retry_delay if error.HasField("retry_delay") else None
    return _build(_CODES.get(error.code, grpc.StatusCode.UNKNOWN), error.reason, error.message, error.metadata, delay)


def _build(
    code: grpc.StatusCode, reason: str, message: str | None, metadata: Mapping[str, str], delay: Duration | None
) -> StatecellError:
    seconds = None if delay is None else delay.ToTimedelta().total_seconds()
    kind = _BY_REASON.get(reason, StatecellError)
    settled = metadata.get("applied") != "unknown"
    return kind(message or reason, reason=reason, code=code, metadata=dict(metadata), retry_seconds=seconds, settled=settled)
