"""SealedStore: a store whose records carry the deployment's seal, so that whoever can write to it cannot make one up."""

from collections.abc import Sequence
from dataclasses import replace

from statecell_server.access.state_key import SEAL_BYTES, StateKey
from statecell_server.durability.record import UNSEALED
from statecell_server.durability.store import StateStore, Write
from statecell_server.errors import StatecellError


class SealedStore:
    """As the store behind it. A seal is of one session's id and its record: another's does not fit.

    It does not tell an old record of the session from its last one: whoever can write to the store can set a session back.
    """

    def __init__(self, store: StateStore, key: StateKey) -> None:
        self._store = store
        self._key = key

    async def write(self, writes: Sequence[Write]) -> list[StatecellError | None]:
        sealed = [replace(w, data=w.data + self._key.seal(_content(w.session_id, w.data))) for w in writes]
        return await self._store.write(sealed)

    async def load(self, session_ids: Sequence[str]) -> list[bytes | None]:
        """What has no seal that fits comes as UNSEALED, which is no record."""
        found = await self._store.load(session_ids)
        return [None if data is None else self._opened(i, data) for i, data in zip(session_ids, found, strict=True)]

    def _opened(self, session_id: str, data: bytes) -> bytes:
        record, seal = data[:-SEAL_BYTES], data[-SEAL_BYTES:]
        return record if self._key.fits(seal, _content(session_id, record)) else UNSEALED

    async def delete(self, session_id: str) -> bool:
        return await self._store.delete(session_id)

    async def ping(self) -> None:
        await self._store.ping()

    async def close(self) -> None:
        await self._store.close()


def _content(session_id: str, record: bytes) -> bytes:
    return b"record\0%b\0%b" % (session_id.encode(), record)
