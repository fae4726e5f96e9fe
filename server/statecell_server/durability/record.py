"""Record: a durable session between two steps, as it lies in the store."""

import json
import math
import random
import struct
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any, Self

import numpy as np
from statecell.spec import DTYPES
from statecell.tensor import MOST_AXES, Array

from statecell_server.errors import SnapshotMismatch

FORMAT = 1
MAGIC = b"SCRD"
UNSEALED = b"unsealed"
"""In the place of a record that has no seal of the deployment's: see SealedStore."""
FENCE_BYTES = 16
_FENCE = struct.Struct(">8sq")  # nonce, step_index
_HEAD = struct.Struct(">4sHxxIIdq")  # magic, format, crc32, length of the header, created, reply_start
_CRC = slice(FENCE_BYTES + 8, FENCE_BYTES + 12)

_DTYPES = {np.dtype(name).str for name in DTYPES}

Layout = tuple[str, str, tuple[int, ...]]  # name, dtype, shape


@dataclass(frozen=True, slots=True)
class Record:
    """`Record.decode(record.encode())`: the state, where it stands, and the reply to the step that led there.

    The bytes are a fence, a head of fixed size, a JSON header and the arrays, little-endian, in the header's order; a CRC-32
    over everything but itself finds damage. The fence is 8 random bytes drawn for each record and the step_index: a writer
    that names the fence it follows can never overwrite what it has not seen, not even after a reset to the same step_index,
    and a write that is repeated because its answer was lost is known by its own fence.
    """

    model: str
    version: str
    digest: str
    owner: str  # the server that wrote it
    batch: int
    step_index: int
    created: float
    states: dict[str, Array]  # by the names of the state inputs
    reply_start: int = -1  # step_index before the step that led here, where its reply was kept
    outputs: dict[str, Array] = field(default_factory=dict)
    nonce: bytes = field(default_factory=lambda: random.randbytes(8))

    @property
    def fence(self) -> bytes:
        return _FENCE.pack(self.nonce, self.step_index)

    def encode(self) -> bytes:
        header = _header(
            self.model, self.version, self.digest, self.owner, self.batch, _layouts(self.states), _layouts(self.outputs)
        )
        arrays = [array.tobytes() for array in chain(self.states.values(), self.outputs.values())]
        content = b"".join([header, *arrays])
        head = _HEAD.pack(MAGIC, FORMAT, 0, len(header), self.created, self.reply_start)
        start = bytearray(self.fence + head)
        start[_CRC] = zlib.crc32(content, zlib.crc32(start)).to_bytes(4, "big")
        return bytes(start) + content

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The arrays are views on `data`. Raises SnapshotMismatch where it is damaged or of another format."""
        size = FENCE_BYTES + _HEAD.size
        if data is UNSEALED:
            raise SnapshotMismatch("the session's record in the store has no seal by a key of this server (--state-key)")
        if len(data) < size or data[FENCE_BYTES : FENCE_BYTES + 4] != MAGIC:
            raise SnapshotMismatch(f"{len(data)} bytes in the store are no record of a session")
        nonce, step_index = _FENCE.unpack_from(data)
        _, form, crc, length, created, start = _HEAD.unpack_from(data, FENCE_BYTES)
        if form != FORMAT:
            raise SnapshotMismatch(f"the session's record has format {form}, this server reads format {FORMAT}")
        blank = bytearray(data[:size])
        blank[_CRC] = bytes(4)
        if crc != zlib.crc32(memoryview(data)[size:], zlib.crc32(blank)):
            raise SnapshotMismatch("the checksum of the session's record does not fit its content: it is damaged")
        # A checksum is no proof of who wrote it: whoever can write to the store can compute one.
        try:
            header = _read_header(data[size : size + length])
            offset = size + length
            groups: list[dict[str, Array]] = []
            for layouts in (header.pop("states"), header.pop("outputs")):
                groups.append({})
                for name, dtype, shape in layouts:
                    count = math.prod(shape)
                    groups[-1][name] = array = np.frombuffer(data, dtype, count, offset).reshape(shape)
                    offset += array.nbytes
        except (ValueError, RecursionError) as error:
            raise SnapshotMismatch(f"the session's record does not say what it has: {error}") from error
        return cls(
            **header,
            step_index=step_index,
            created=created,
            states=groups[0],
            reply_start=start,
            outputs=groups[1],
            nonce=nonce,
        )


def _read_header(text: bytes) -> dict[str, Any]:
    """The reverse of _header. Raises ValueError, RecursionError."""
    header: dict[str, Any] = json.loads(text)
    match header:
        case {
            "model": str(),
            "version": str(),
            "digest": str(),
            "owner": str(),
            "batch": int(batch),
            "states": list(states),
            "outputs": list(outputs),
        } if len(header) == 7 and batch >= 1:
            for layout in (*states, *outputs):
                match layout:
                    case [str(), str(dtype), list(shape)] if dtype in _DTYPES and len(shape) <= MOST_AXES:
                        if all(isinstance(size, int) and size >= 0 for size in shape):
                            continue
                raise ValueError(f"its header has the layout {str(layout)[:80]}")
            return header
    raise ValueError("its header has other fields")


def step_index_of(fence: bytes) -> int:
    """Where the record with this fence stands."""
    index: int = _FENCE.unpack(fence)[1]
    return index


def _layouts(arrays: dict[str, Array]) -> tuple[Layout, ...]:
    return tuple((name, array.dtype.str, array.shape) for name, array in arrays.items())


@lru_cache(maxsize=1024)
def _header(
    model: str, version: str, digest: str, owner: str, batch: int, states: tuple[Layout, ...], outputs: tuple[Layout, ...]
) -> bytes:
    """The same for all steps of one length of all sessions of a model."""
    fields = {"model": model, "version": version, "digest": digest, "owner": owner, "batch": batch}
    return json.dumps({**fields, "states": states, "outputs": outputs}, separators=(",", ":")).encode()
