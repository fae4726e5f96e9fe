"""A session's state between two steps, whole and portable."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from google.protobuf.message import DecodeError
from statecell.tensor import unpack
from statecell.v1 import inference_pb2 as wire

from statecell_client.errors import SnapshotMismatch
from statecell_client.state import State


@dataclass(frozen=True)
class Snapshot:
    """What `session.snapshot()` gives and `client.session(model, snapshot=…)` takes, there or on another server.

    It is bound to the artifact that it was taken from, and checksummed: the server refuses a wrong one with SnapshotMismatch.
    """

    message: wire.Snapshot

    def __repr__(self) -> str:
        states = ", ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in self.message.states)
        return f"<Snapshot of {self.model} at step_index {self.step_index}: {states}>"

    @property
    def model(self) -> str:
        return self.message.model

    @property
    def digest(self) -> str:
        """SHA-256 of the artifact that the state belongs to, in hex."""
        return self.message.digest

    @property
    def batch(self) -> int:
        return self.message.batch

    @property
    def step_index(self) -> int:
        """Time steps consumed so far."""
        return self.message.step_index

    @property
    def states(self) -> State:
        """Copies of the states in the spec's order: `h_0, c_0 = snapshot.states`, or by the names of the state inputs."""
        return State((tensor.name, np.array(unpack(tensor))) for tensor in self.message.states)

    def to_bytes(self) -> bytes:
        """For a file or a database: the serialised statecell.v1.Snapshot, which every client reads."""
        return self.message.SerializeToString()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The reverse of to_bytes. Raises SnapshotMismatch where `data` is no snapshot."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise SnapshotMismatch(f"a snapshot is read from bytes, and a {type(data).__name__} came; open the file with 'rb'")
        try:
            message = wire.Snapshot.FromString(data)
        except DecodeError as error:
            raise SnapshotMismatch(f"{len(data)} bytes are not a snapshot: {error}") from error
        if not data or not message.format:
            raise SnapshotMismatch(f"{len(data)} bytes are not a snapshot, as session.snapshot().to_bytes() gives one")
        if message.format != 1 or not message.model:
            raise SnapshotMismatch(f"a snapshot of format {message.format} came, this release reads format 1")
        return cls(message)
