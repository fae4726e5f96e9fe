"""What clients send, serialised once, with the step_index in a place where the load can count it up."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import numpy as np
from statecell.tensor import Array, pack
from statecell.v1 import inference_pb2 as pb
from statecell.v1 import inference_pb2_grpc

STEP = "/statecell.v1.InferenceService/Step"
STREAM = "/statecell.v1.InferenceService/StreamSteps"
INDEX_BYTES = 5
"""Of a varint that is padded with zeros, which every protobuf reads: room for 2**35 steps."""


@dataclass(frozen=True)
class Message:
    """`data` ends with `indexes` varints of INDEX_BYTES: the step_indexes, all 0."""

    data: bytes
    indexes: int


def varint(value: int) -> bytes:
    """Of INDEX_BYTES."""
    return bytes((value >> 7 * i & 0x7F) | (0x80 if i < INDEX_BYTES - 1 else 0) for i in range(INDEX_BYTES))


def x(seq_len: int, batch: int, size: int) -> Array:
    """[seq_len, batch, size], float32."""
    return np.random.default_rng(0).standard_normal((seq_len, batch, size), np.float32)


def unary(session_id: str, inputs: Array) -> Message:
    """A StepRequest."""
    request = pb.StepRequest(session_id=session_id, inputs=[pack("x", inputs)])
    return Message(request.SerializeToString() + _tag(pb.StepRequest, "step_index", wire_type=0) + varint(0), 1)


def streamed(session_ids: Sequence[str], inputs: Array) -> Message:
    """A StreamStepsRequest."""
    request = pb.StreamStepsRequest(session_ids=session_ids, inputs=[pack("x", inputs)])
    indexes = varint(0) * len(session_ids)
    head = _tag(pb.StreamStepsRequest, "step_indexes", wire_type=2) + varint(len(indexes))
    return Message(request.SerializeToString() + head + indexes, len(session_ids))


def _tag(message: type[pb.StepRequest] | type[pb.StreamStepsRequest], field: str, *, wire_type: int) -> bytes:
    return bytes([message.DESCRIPTOR.fields_by_name[field].number << 3 | wire_type])


@contextmanager
def sessions(address: str, model: str, count: int) -> Iterator[list[str]]:
    """The ids of `count` new sessions, deleted at the end of the block."""
    with grpc.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        create = pb.CreateSessionRequest(model=model)
        calls = [stub.CreateSession.future(create) for _ in range(count)]
        ids = [call.result().session.session_id for call in calls]
        yield ids
        for call in [stub.DeleteSession.future(pb.DeleteSessionRequest(session_id=session_id)) for session_id in ids]:
            call.result()
