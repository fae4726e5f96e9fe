"""StateStore: where durable sessions are kept between their steps."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from statecell_server.durability.record import FENCE_BYTES
from statecell_server.errors import SessionContended, StatecellError


@dataclass(frozen=True, slots=True)
class Write:
    """`data`, an encoded Record, is to follow the record whose fence is `after` (b"": there is none yet)."""

    session_id: str
    after: bytes
    data: bytes

    @property
    def fence(self) -> bytes:
        return self.data[:FENCE_BYTES]


class StateStore(Protocol):
    """Records by session id, each for as long as it is used at least once in the store's time to live.

    All methods raise StoreUnavailable when the store does not answer in time. A write may then have been applied or not;
    to send it again is safe.
    """

    async def write(self, writes: Sequence[Write]) -> list[StatecellError | None]:
        """Each by itself, atomically, all in one round trip: None where it is written (or was, by an earlier attempt),
        SessionContended where another record is there, StoreFull where there is no room."""

    async def load(self, session_ids: Sequence[str]) -> list[bytes | None]:
        """The records, in one round trip; None where there is none."""

    async def delete(self, session_id: str) -> bool:
        """Whether there was a record."""

    async def ping(self) -> None:
        """Whether the store answers."""

    async def close(self) -> None:
        """Closes the connections; records stay."""


def contended(session_id: str) -> SessionContended:
    return SessionContended(f"session {session_id} is being stepped by another server as well", session_id=session_id)


class MemoryStore:
    """In this process: for trying out and for tests. Two engines may share one."""

    def __init__(self, ttl: float) -> None:
        self._ttl = ttl
        self._records: dict[str, tuple[bytes, float]] = {}  # and when it expires

    async def write(self, writes: Sequence[Write]) -> list[StatecellError | None]:
        return [self._write(write) for write in writes]

    def _write(self, write: Write) -> StatecellError | None:
        fence = (self._get(write.session_id) or b"")[:FENCE_BYTES]
        if fence not in (write.after, write.fence):
            return contended(write.session_id)
        self._records[write.session_id] = write.data, time.monotonic() + self._ttl
        return None

    def _get(self, session_id: str) -> bytes | None:
        data, expires = self._records.get(session_id, (None, 0.0))
        if data is not None and expires < time.monotonic():
            del self._records[session_id]
            return None
        return data

    async def load(self, session_ids: Sequence[str]) -> list[bytes | None]:
        found = [self._get(session_id) for session_id in session_ids]
        for session_id, data in zip(session_ids, found, strict=True):
            if data is not None:
                self._records[session_id] = data, time.monotonic() + self._ttl
        return found

    async def delete(self, session_id: str) -> bool:
        return self._records.pop(session_id, None) is not None

    async def ping(self) -> None:
        pass

    async def close(self) -> None:
        pass
