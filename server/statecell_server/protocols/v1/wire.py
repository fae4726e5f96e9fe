"""Between the engine's objects and statecell.v1 messages."""

import functools
from collections.abc import Iterable
from typing import Any

from google.protobuf import json_format, timestamp_pb2
from statecell.spec import ModelSpec
from statecell.tensor import Array, TensorError, pack, unpack
from statecell.v1 import inference_pb2 as pb
from statecell.v1 import model_pb2, tensor_pb2

from statecell_server.access.state_key import StateKey
from statecell_server.batching.runner import Runner
from statecell_server.errors import InvalidRequest, StatecellError
from statecell_server.protocols.status import CODES, duration, told
from statecell_server.sessions.session import Session
from statecell_server.sessions.snapshot import Snapshot


def read_tensors(tensors: Iterable[tensor_pb2.Tensor]) -> dict[str, Array]:
    """By name. Raises InvalidRequest."""
    arrays: dict[str, Array] = {}
    for tensor in tensors:
        if tensor.name in arrays:
            raise InvalidRequest(f"tensor {tensor.name!r} came twice", field=tensor.name)
        try:
            arrays[tensor.name] = unpack(tensor)
        except TensorError as error:
            raise InvalidRequest(str(error), field=tensor.name) from error
    return arrays


def write_tensors(arrays: Iterable[tuple[str, Array]], into: Any) -> None:
    """Each with its name, into a message's own list: what is made beside it would be copied there."""
    for name, array in arrays:
        pack(name, array, into.add())


@functools.lru_cache(256)
def _spec(spec: ModelSpec) -> model_pb2.ModelSpec:
    """Made once: it takes milliseconds, and anybody may ask for all models as often as they like."""
    return json_format.ParseDict(spec.to_dict(), model_pb2.ModelSpec())


def write_model(runner: Runner) -> model_pb2.Model:
    return model_pb2.Model(
        name=runner.name,
        version=runner.version,
        spec=_spec(runner.spec),
        digest=runner.runtime.digest,
        runtime=runner.runtime.name,
        device=runner.runtime.device,
        session_count=len(runner.sessions),
        batch_invariant=not runner.sharing.variance,
        note=runner.note,
    )


def write_session(session: Session) -> pb.Session:
    return pb.Session(
        session_id=session.id,
        model=session.model,
        version=session.version,
        batch=session.batch,
        step_index=session.step_index,
        durable=session.durable,
        create_time=_timestamp(session.created),
        last_used_time=_timestamp(session.used),
    )


def _timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    return timestamp_pb2.Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


def read_snapshot(message: pb.Snapshot) -> Snapshot:
    return Snapshot(
        message.model, message.digest, message.batch, message.step_index, read_tensors(message.states), message.format
    )


def write_snapshot(snapshot: Snapshot, key: StateKey) -> pb.Snapshot:
    message = pb.Snapshot(
        format=snapshot.format,
        model=snapshot.model,
        digest=snapshot.digest,
        batch=snapshot.batch,
        step_index=snapshot.step_index,
        checksum=snapshot.seal(key),
    )
    write_tensors(snapshot.states.items(), message.states)
    return message


def write_error(position: int, session_id: str, error: StatecellError) -> pb.StepError:
    """The error as a stream carries it."""
    told[error.reason] += 1
    return pb.StepError(
        position=position,
        session_id=session_id,
        code=CODES[type(error)],
        reason=error.reason,
        message=str(error),
        metadata=error.metadata,
        retry_delay=duration(error.retry_seconds) if error.retry_seconds is not None else None,
    )
