"""ValkeyStore: records in Valkey or Redis. The only place that knows valkey-py."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

from valkey.asyncio import BlockingConnectionPool, Valkey
from valkey.asyncio.retry import Retry
from valkey.backoff import NoBackoff
from valkey.exceptions import ConnectionError as NoConnection
from valkey.exceptions import OutOfMemoryError, ResponseError, ValkeyError
from valkey.utils import str_if_bytes

from statecell_server.durability.record import FENCE_BYTES
from statecell_server.durability.store import Write, contended
from statecell_server.errors import StatecellError, StoreFull, StoreUnavailable

log = logging.getLogger(__name__)
T = TypeVar("T")

PREFIX = b"statecell:session:"
CONNECTIONS = 16
CHUNK = 16 << 20
"""Bytes that one command carries at most; a batch of large states is written in several."""

WRITE = f"""
local answers = {{}}
for i, key in ipairs(KEYS) do
  local there = redis.call('GETRANGE', key, 0, {FENCE_BYTES - 1})
  local data = ARGV[2 * i + 1]
  if there == ARGV[2 * i] then
    local done = redis.pcall('SET', key, data, 'PX', ARGV[1])
    answers[i] = done.err or 'written'
  elseif there == string.sub(data, 1, {FENCE_BYTES}) then
    answers[i] = 'written'
  else
    answers[i] = 'behind'
  end
end
return table.concat(answers, '\\n')
"""
"""Compare and set, for many sessions at once: a record replaces the one with the fence that it names, or nothing happens."""


class ValkeyStore:
    """`ValkeyStore("valkey://localhost:6379/0", ttl=3600, timeout=0.5)`. Connects at the first call."""

    def __init__(self, url: str, *, ttl: float, timeout: float, password: str | None = None) -> None:
        """`timeout`: seconds for one call, all its attempts together. `password`: where the URL has none.

        Raises ValueError where the URL is none.
        """
        self._ttl = max(int(ttl * 1000), 1)
        self._timeout = timeout
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=timeout,
            socket_connect_timeout=timeout,
            socket_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            **({} if password is None else {"password": password}),
        )
        where = pool.connection_kwargs
        self.address = f"{where.get('host', 'localhost')}:{where.get('port', 6379)}" if "path" not in where else where["path"]
        self._client = Valkey.from_pool(pool)
        self._checked = False
        self._write = self._client.register_script(WRITE)

    async def write(self, writes: Sequence[Write]) -> list[StatecellError | None]:
        answers: list[StatecellError | None] = []
        for chunk in _chunks(writes):
            keys = [PREFIX + write.session_id.encode() for write in chunk]
            arguments: list[Any] = [self._ttl]
            for write in chunk:
                arguments += (write.after, write.data)
            try:
                answer: bytes = await self._call(functools.partial(self._write, keys, arguments))
            except StoreFull as error:
                answers += [error] * len(chunk)
            else:
                answers += map(_answer, chunk, answer.decode().split("\n"))
        return answers

    async def load(self, session_ids: Sequence[str]) -> list[bytes | None]:
        async def call() -> list[bytes | None]:
            pipeline = self._client.pipeline(transaction=False)
            for session_id in session_ids:
                pipeline.getex(PREFIX + session_id.encode(), px=self._ttl)
            found: list[bytes | None] = await pipeline.execute()
            return found

        return await self._call(call)

    async def delete(self, session_id: str) -> bool:
        return bool(await self._call(lambda: self._client.delete(PREFIX + session_id.encode())))

    async def ping(self) -> None:
        await self._call(self._client.ping)
        if not self._checked:
            self._checked = True
            await self._call(self._check)

    async def close(self) -> None:
        await self._client.aclose(close_connection_pool=True)

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        """One retry, for a connection that was closed while it was idle; every call here may be repeated."""
        try:
            async with asyncio.timeout(self._timeout):
                try:
                    return await call()
                except NoConnection:
                    return await call()
                except RuntimeError:
                    # uvloop's word for a transport that was closed; valkey-py does not know it and would keep the connection.
                    await self._client.connection_pool.disconnect(inuse_connections=False)
                    return await call()
        except OutOfMemoryError as error:
            raise StoreFull(f"the store at {self.address} is out of memory: {error}") from error
        except TimeoutError as error:
            raise StoreUnavailable(f"the store at {self.address} did not answer within {self._timeout:g} s") from error
        except (ValkeyError, OSError, RuntimeError) as error:
            raise StoreUnavailable(f"the store at {self.address} does not answer: {error}") from error

    async def _check(self) -> None:
        """Warns of what would let the store forget what it has acknowledged."""
        config: dict[str, str] = {}
        try:
            for pattern in ("maxmemory*", "appendonly"):
                found = await self._client.config_get(pattern)
                config |= {str_if_bytes(key): str_if_bytes(value) for key, value in found.items()}
        except ResponseError as error:
            log.warning("the store at %s does not tell its configuration: %s", self.address, error)
            return
        policy = config.get("maxmemory-policy")
        if config.get("maxmemory") != "0" and policy != "noeviction":
            log.warning("the store at %s may evict sessions: its maxmemory-policy is %s, not noeviction", self.address, policy)
        if config.get("appendonly") != "yes":
            log.warning("the store at %s has appendonly off: what it holds does not outlive its own crash", self.address)


def _chunks(writes: Sequence[Write]) -> Iterator[list[Write]]:
    chunk: list[Write] = []
    size = 0
    for write in writes:
        if chunk and size + len(write.data) > CHUNK:
            yield chunk
            chunk, size = [], 0
        chunk.append(write)
        size += len(write.data)
    if chunk:
        yield chunk


def _answer(write: Write, answer: str) -> StatecellError | None:
    if answer == "written":
        return None
    if answer == "behind":
        return contended(write.session_id)
    if "OOM" in answer:
        return StoreFull(f"the store has no room for session {write.session_id}: {answer}", session_id=write.session_id)
    return StoreUnavailable(f"the store refused session {write.session_id}: {answer}", session_id=write.session_id)
