"""What a server says of a model and of a session."""

import datetime
from dataclasses import dataclass
from typing import Self

from google.protobuf.json_format import MessageToDict
from statecell.spec import ModelSpec
from statecell.v1 import inference_pb2 as wire
from statecell.v1 import model_pb2


@dataclass(frozen=True)
class Model:
    """A model as the server has it."""

    name: str
    version: str
    spec: ModelSpec
    digest: str
    """SHA-256 of the artifact, in hex. Snapshots are bound to it."""
    runtime: str
    device: str
    session_count: int
    batch_invariant: bool
    """Whether a row's result is bit for bit the same alone and in any batch."""
    note: str

    @classmethod
    def from_wire(cls, model: model_pb2.Model) -> Self:
        spec = MessageToDict(model.spec, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        return cls(
            model.name,
            model.version,
            ModelSpec.from_dict(spec),
            model.digest,
            model.runtime,
            model.device,
            model.session_count,
            model.batch_invariant,
            model.note,
        )


@dataclass(frozen=True)
class SessionInfo:
    """A session as the server lists it."""

    id: str
    model: str
    version: str
    batch: int
    step_index: int
    """Time steps consumed so far."""
    durable: bool
    create_time: datetime.datetime
    last_used_time: datetime.datetime

    @classmethod
    def from_wire(cls, session: wire.Session) -> Self:
        return cls(
            session.session_id,
            session.model,
            session.version,
            session.batch,
            session.step_index,
            session.durable,
            session.create_time.ToDatetime(datetime.UTC),
            session.last_used_time.ToDatetime(datetime.UTC),
        )
