"""Errors as a call ends with them: google.rpc.Status with an ErrorInfo, for every protocol here."""

from collections import Counter
from typing import Any

from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from statecell_server import errors
from statecell_server.errors import StatecellError

DOMAIN = "statecell"
CODES: dict[type[StatecellError], int] = {
    errors.ModelNotFound: code_pb2.NOT_FOUND,
    errors.ModelRefused: code_pb2.FAILED_PRECONDITION,
    errors.ModelInUse: code_pb2.FAILED_PRECONDITION,
    errors.SessionNotFound: code_pb2.NOT_FOUND,
    errors.SessionExpired: code_pb2.NOT_FOUND,
    errors.SessionLost: code_pb2.NOT_FOUND,
    errors.SessionExists: code_pb2.ALREADY_EXISTS,
    errors.StepOutOfOrder: code_pb2.FAILED_PRECONDITION,
    errors.InvalidRequest: code_pb2.INVALID_ARGUMENT,
    errors.ShapeMismatch: code_pb2.INVALID_ARGUMENT,
    errors.DtypeMismatch: code_pb2.INVALID_ARGUMENT,
    errors.EmptyTensor: code_pb2.INVALID_ARGUMENT,
    errors.NonFiniteInput: code_pb2.INVALID_ARGUMENT,
    errors.InputRefused: code_pb2.INVALID_ARGUMENT,
    errors.NotStreamable: code_pb2.FAILED_PRECONDITION,
    errors.SnapshotMismatch: code_pb2.FAILED_PRECONDITION,
    errors.QueueFull: code_pb2.RESOURCE_EXHAUSTED,
    errors.StateBudgetExceeded: code_pb2.RESOURCE_EXHAUSTED,
    errors.Draining: code_pb2.UNAVAILABLE,
    errors.StoreUnavailable: code_pb2.UNAVAILABLE,
    errors.StoreFull: code_pb2.RESOURCE_EXHAUSTED,
    errors.SessionContended: code_pb2.ABORTED,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.PermissionDenied: code_pb2.PERMISSION_DENIED,
    errors.InternalError: code_pb2.INTERNAL,
}
"""Every error of errors.py and the google.rpc.Code that it travels with."""
told: Counter[str] = Counter({error.reason: 0 for error in CODES})
"""How often clients of this process were told each reason, by any protocol."""


def write_status(error: StatecellError) -> status_pb2.Status:
    """The error as a call ends with it."""
    told[error.reason] += 1
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)]
    if error.retry_seconds is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=duration(error.retry_seconds)))
    status = status_pb2.Status(code=CODES[type(error)], message=str(error))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def duration(seconds: float) -> duration_pb2.Duration:
    return duration_pb2.Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
