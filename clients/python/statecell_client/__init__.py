"""Step recurrent models on a statecell server as if they were local.

from statecell_client import Client

with Client("localhost:50051") as client, client.session("charlm") as session:
    logits = session.step(65)
"""

from statecell_client.async_client import AsyncClient
from statecell_client.async_session import AsyncSession
from statecell_client.client import Client
from statecell_client.errors import (
    DeadlineExceeded,
    Draining,
    DtypeMismatch,
    EmptyTensor,
    InputRefused,
    InternalError,
    InvalidRequest,
    ModelInUse,
    ModelNotFound,
    ModelRefused,
    NonFiniteInput,
    NotStreamable,
    PermissionDenied,
    QueueFull,
    ServerUnreachable,
    SessionContended,
    SessionEvicted,
    SessionExists,
    SessionExpired,
    SessionGone,
    SessionLost,
    SessionNotFound,
    ShapeMismatch,
    SnapshotMismatch,
    StateBudgetExceeded,
    StatecellError,
    StepInFlight,
    StepOutOfOrder,
    StepUnsettled,
    StoreFull,
    StoreUnavailable,
    Unauthenticated,
)
from statecell_client.model import Model, SessionInfo
from statecell_client.retry import Retry
from statecell_client.session import Session
from statecell_client.snapshot import Snapshot
from statecell_client.state import State
from statecell_client.tls import Tls

__all__ = [
    "AsyncClient",
    "AsyncSession",
    "Client",
    "DeadlineExceeded",
    "Draining",
    "DtypeMismatch",
    "EmptyTensor",
    "InputRefused",
    "InternalError",
    "InvalidRequest",
    "Model",
    "ModelInUse",
    "ModelNotFound",
    "ModelRefused",
    "NonFiniteInput",
    "NotStreamable",
    "PermissionDenied",
    "QueueFull",
    "Retry",
    "ServerUnreachable",
    "Session",
    "SessionContended",
    "SessionEvicted",
    "SessionExists",
    "SessionExpired",
    "SessionGone",
    "SessionInfo",
    "SessionLost",
    "SessionNotFound",
    "ShapeMismatch",
    "Snapshot",
    "SnapshotMismatch",
    "State",
    "StateBudgetExceeded",
    "StatecellError",
    "StepInFlight",
    "StepOutOfOrder",
    "StepUnsettled",
    "StoreFull",
    "StoreUnavailable",
    "Tls",
    "Unauthenticated",
]
