"""Snapshot: a session's state between two steps, whole, portable and checksummed."""

import hashlib
from dataclasses import dataclass

from statecell.tensor import Array

from statecell_server.access.state_key import NO_KEY, StateKey
from statecell_server.errors import SnapshotMismatch
from statecell_server.sessions.session import LAST_INDEX

FORMAT = 1


@dataclass(frozen=True)
class Snapshot:
    """`states` by the names of the state inputs, in the spec's order; `digest` is of the artifact they belong to."""

    model: str
    digest: str
    batch: int
    step_index: int
    states: dict[str, Array]
    format: int = FORMAT

    def checksum(self) -> bytes:
        """SHA-256 over the lines "format", "model", "digest", "batch", "step_index", then for each state the line
        "name dtype shape" and its little-endian bytes; lines end with a newline, sizes in a shape are separated by commas."""
        sha = hashlib.sha256(f"{self.format}\n{self.model}\n{self.digest}\n{self.batch}\n{self.step_index}\n".encode())
        for name, array in self.states.items():
            sha.update(f"{name} {array.dtype.name} {','.join(map(str, array.shape))}\n".encode())
            sha.update(array.tobytes())
        return sha.digest()

    def seal(self, key: StateKey) -> bytes:
        """What a client is given as its checksum: where there is a key, HMAC-SHA256 over b"snapshot\\0" and the checksum."""
        return key.seal(b"snapshot\0" + self.checksum()) if key.sealing else self.checksum()

    def verify(self, checksum: bytes, model: str, digest: str, key: StateKey = NO_KEY) -> None:
        """Raises SnapshotMismatch unless it is whole, of this deployment where that has a key, and belongs to this model."""
        if self.format != FORMAT:
            raise SnapshotMismatch(f"the snapshot has format {self.format}, this server reads format {FORMAT}")
        if self.batch < 1 or not 0 <= self.step_index <= LAST_INDEX:
            raise SnapshotMismatch(
                f"the snapshot has batch {self.batch} and step_index {self.step_index}, "
                f"expected 1 or more, and 0 to {LAST_INDEX}",
                field="batch" if self.batch < 1 else "step_index",
            )
        if key.sealing and not key.fits(checksum, b"snapshot\0" + self.checksum()):
            raise SnapshotMismatch(
                "the snapshot has no seal by a key of this server (--state-key), or its content was changed", field="checksum"
            )
        if not key.sealing and checksum != self.checksum():
            raise SnapshotMismatch("the snapshot's checksum does not fit its content: it is damaged", field="checksum")
        if digest != self.digest:
            raise SnapshotMismatch(
                f"the snapshot is of {self.model!r} with digest {self.digest[:12]}, {model!r} here has {digest[:12]}",
                field="digest",
                got=self.digest,
                expected=digest,
            )
