"""What can go wrong with a call. No error here knows the transport; protocols.status has the table of gRPC codes."""

from typing import Self

LONGEST = 1000
"""Characters of a message, and of each entry of its metadata. A caller may be told the same for each of many sessions."""


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 40]}... ({len(text):,} characters in all)"


class StatecellError(Exception):
    """Base of all. `reason` is stable; the message names the field, what came and what was expected."""

    reason = "INTERNAL"
    retry_seconds: float | None = None
    """Where the same call may succeed later: after how long. Every state is as it was."""

    def __init__(self, message: str, **metadata: object) -> None:
        """What a caller sent may be in both, and may be long: no more than LONGEST characters of each are kept."""
        super().__init__(_shortened(message))
        self.metadata = {key: _shortened(str(value)) for key, value in metadata.items()}

    def kept(self) -> Self:
        """To be kept by whoever has caught it: without the frames that it came through, which hold what keeps it."""
        return self.with_traceback(None)


class ModelNotFound(StatecellError):
    """The caller's fault: ListModels tells what is served."""

    reason = "MODEL_NOT_FOUND"


class ModelRefused(StatecellError):
    """The operator's fault: the model's files are not what a server can load; the message says why."""

    reason = "MODEL_REFUSED"


class ModelInUse(StatecellError):
    """The caller's fault: a model cannot be unloaded while it has sessions. Delete them, or wait for them to end."""

    reason = "MODEL_IN_USE"


class SessionNotFound(StatecellError):
    """The caller's fault: the id was never issued here, or its session was deleted."""

    reason = "SESSION_NOT_FOUND"


class SessionExpired(StatecellError):
    """Nobody's fault: the session was idle for longer than the server keeps one. Create it again, from a snapshot if any."""

    reason = "SESSION_EXPIRED"


class SessionLost(StatecellError):
    """The server's: it has been restarted and the session was not durable. Create it again, from a snapshot if there is one."""

    reason = "SESSION_LOST"


class SessionExists(StatecellError):
    """The caller's fault: a sequence is to start under the id of a live one. End that one, or ask for it to be replaced."""

    reason = "SESSION_EXISTS"


class StepOutOfOrder(StatecellError):
    """The caller's fault: a step was skipped, sent twice long ago, or sent without step_index while another was in flight."""

    reason = "STEP_OUT_OF_ORDER"


class InvalidRequest(StatecellError):
    """The caller's fault: a field is missing or contradicts another."""

    reason = "INVALID_REQUEST"


class ShapeMismatch(StatecellError):
    """The caller's fault: a tensor's shape is not what ModelSpec says."""

    reason = "SHAPE_MISMATCH"


class DtypeMismatch(StatecellError):
    """The caller's fault: a tensor's dtype is not what ModelSpec says."""

    reason = "DTYPE_MISMATCH"


class EmptyTensor(StatecellError):
    """The caller's fault: a tensor has an axis of size 0. A run of no steps would wipe the state."""

    reason = "EMPTY_TENSOR"


class NonFiniteInput(StatecellError):
    """The caller's fault: NaN or infinity in an input, which the kernels would silently turn into numbers."""

    reason = "NON_FINITE_INPUT"


class InputRefused(StatecellError):
    """The caller's fault as a rule: the model itself could not be run on this input, such as a token beyond its vocabulary."""

    reason = "INPUT_REFUSED"


class NotStreamable(StatecellError):
    """The model's nature: a run in pieces differs from the whole run, so it has no sessions. Use Infer."""

    reason = "NOT_STREAMABLE"


class SnapshotMismatch(StatecellError):
    """The snapshot is damaged, or belongs to another model or another build of this one."""

    reason = "SNAPSHOT_MISMATCH"


class QueueFull(StatecellError):
    """Nobody's fault: more steps wait than the server will queue."""

    reason = "QUEUE_FULL"
    retry_seconds = 0.1


class StateBudgetExceeded(StatecellError):
    """Nobody's fault: the memory for states is taken. Delete sessions, or serve with a larger --state-memory."""

    reason = "STATE_BUDGET_EXCEEDED"
    retry_seconds: float | None = 1.0

    def __init__(self, message: str, *, ever: bool = True, **metadata: object) -> None:
        """`ever`: whether there could be room at another time; else nobody is told to wait."""
        super().__init__(message, **metadata)
        if not ever:
            self.retry_seconds = None


class Draining(StatecellError):
    """Nobody's fault: the server is about to stop and takes no new sessions. Another one will."""

    reason = "DRAINING"
    retry_seconds = 1.0


class StoreUnavailable(StatecellError):
    """The store's fault: it did not answer, so the step of a durable session cannot be acknowledged. Send it again, with the
    same step_index: it is applied once. Metadata `applied` is "no" where nothing had been sent, otherwise "unknown"."""

    reason = "STORE_UNAVAILABLE"
    retry_seconds = 0.25

    def __init__(self, message: str, **metadata: object) -> None:
        super().__init__(message, **{"applied": "unknown", **metadata})


class StoreFull(StatecellError):
    """The operator's fault: the store has no room for the state. Give it more memory. Nothing is lost; repeat the step."""

    reason = "STORE_FULL"
    retry_seconds = 1.0


class SessionContended(StatecellError):
    """Two servers are stepping the session, and this one lost the race several times over. Send the step again."""

    reason = "SESSION_CONTENDED"
    retry_seconds = 0.05


class Unauthenticated(StatecellError):
    """The caller's fault: the call has no token, or none of this server's."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(StatecellError):
    """The caller's fault: the call needs a role that the caller does not have."""

    reason = "PERMISSION_DENIED"


class InternalError(StatecellError):
    """The server's fault: a run failed for a reason that is not in its input. Every state is as it was."""

    reason = "INTERNAL"
