"""Nobody waits for a dead task: whatever a library raises, whoever waits is told, and the state is as it was."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from statecell_server.config import Config
from statecell_server.durability.circuit_breaker import CircuitBreaker
from statecell_server.durability.store import MemoryStore, Write
from statecell_server.engine.engine import Engine
from statecell_server.errors import StatecellError, StoreUnavailable
from statecell_server.sessions.session import Session

X = np.random.default_rng(5).standard_normal((8, 1, 1, 10), np.float32)
LIMIT = 60.0
"""Seconds after which a wait is one for a dead task."""

FAILURES = [
    AttributeError("'NoneType' object has no attribute 'writelines'"),
    RuntimeError("the transport is closed"),
    OSError(24, "Too many open files"),
    RecursionError("too deep"),
    KeyError("slot"),
    asyncio.IncompleteReadError(b"", 4),
    TimeoutError(),
]
"""What libraries for stores were seen to raise, and what they may."""


class FailingStore(MemoryStore):
    """Raises `error` in the next call of a method that is in `failing`: before it does anything, or after it has."""

    def __init__(self) -> None:
        super().__init__(ttl=60)
        self.failing: set[str] = set()
        self.error: BaseException = FAILURES[0]
        self.late = False

    async def write(self, writes: Sequence[Write]) -> list[StatecellError | None]:
        self._fail("write")
        errors = await super().write(writes)
        self._fail("write late")
        return errors

    async def load(self, session_ids: Sequence[str]) -> list[bytes | None]:
        self._fail("load")
        return await super().load(session_ids)

    async def delete(self, session_id: str) -> bool:
        self._fail("delete")
        return await super().delete(session_id)

    async def ping(self) -> None:
        self._fail("ping")

    def _fail(self, method: str) -> None:
        if method in self.failing:
            self.failing.discard(method)
            raise self.error


@asynccontextmanager
async def pair(lstm_only: Path, **options: object) -> AsyncIterator[tuple[Engine, Engine, FailingStore]]:
    """Two engines and their store, as the server puts them together."""
    inner = FailingStore()
    made = [Engine(Config(models=lstm_only, **options), CircuitBreaker(inner)) for _ in range(2)]  # type: ignore[arg-type]
    for engine in made:
        await engine.start()
    yield made[0], made[1], inner
    for engine in made:
        await engine.stop()


async def step(engine: Engine, session_id: str, index: int) -> np.ndarray:
    outputs, _ = await engine.steps.step(session_id, {"x": X[index]}, index)
    return np.asarray(outputs["y"])


Call = Callable[[Engine, Engine, Session], Awaitable[object]]
CALLS: dict[str, tuple[str, Call]] = {
    "create": ("write", lambda a, _, __: a.lifecycle.create("lstm", durable=True)),
    "create, applied": ("write late", lambda a, _, __: a.lifecycle.create("lstm", durable=True)),
    "step": ("write", lambda a, _, s: step(a, s.id, 2)),
    "step, applied": ("write late", lambda a, _, s: step(a, s.id, 2)),
    "take over": ("load", lambda _, b, s: step(b, s.id, 2)),
    "take over and write": ("write", lambda _, b, s: step(b, s.id, 2)),
    "fork": ("write", lambda a, _, s: a.lifecycle.fork(s.id, 3)),
    "fork elsewhere": ("load", lambda _, b, s: b.lifecycle.fork(s.id, 3)),
    "snapshot": ("load", lambda a, _, s: a.lifecycle.snapshot(s.id)),
    "reset": ("write", lambda a, _, s: a.lifecycle.reset(s.id)),
    "attach": ("load", lambda _, b, s: b.lifecycle.attach(s.id)),
    "delete": ("delete", lambda a, _, s: a.lifecycle.delete(s.id)),
}


@pytest.mark.parametrize("call", CALLS)
async def test_whoever_calls_is_told_and_the_state_is_as_it_was(lstm_only: Path, call: str) -> None:
    method, make = CALLS[call]
    async with pair(lstm_only) as (a, b, store):
        free = await a.lifecycle.create("lstm")
        want = [await step(a, free.id, i) for i in range(4)]
        for error in FAILURES:
            session = await a.lifecycle.create("lstm", durable=True)
            for i in range(2):
                await step(a, session.id, i)
            store.error, store.failing = error, {method}
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(make(a, b, session), LIMIT)
            assert not store.failing, "it was called"
            for i, engine in ((2, a), (3, b)):
                np.testing.assert_array_equal(await asyncio.wait_for(step(engine, session.id, i), LIMIT), want[i])


async def test_all_who_wait_behind_one_takeover_are_told(lstm_only: Path) -> None:
    async with pair(lstm_only) as (a, b, store):
        session = await a.lifecycle.create("lstm", durable=True)
        await step(a, session.id, 0)
        store.failing = {"load"}
        waiting = [asyncio.create_task(step(b, session.id, i)) for i in range(1, 6)]
        done, pending = await asyncio.wait(waiting, timeout=LIMIT)
        assert not pending
        assert any(isinstance(task.exception(), StoreUnavailable) for task in done)
        assert all(task.exception() is None or isinstance(task.exception(), StatecellError) for task in done)
        at = (await b.lifecycle.attach(session.id)).step_index
        await step(b, session.id, at)


async def test_what_runs_by_itself_goes_on(
    lstm_only: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The sweep, the poll for models, and the watch of the store."""
    async with pair(lstm_only, poll_models=0.05) as (a, _, store):
        swept, polled = 0, 0
        expire, refresh = a.sessions.expire, a.models.refresh

        def sweep(now: float) -> list[Session]:
            nonlocal swept
            swept += 1
            if swept == 1:
                raise KeyError("odd")
            return expire(now)

        async def poll(users: Callable[..., int]) -> bool:
            nonlocal polled
            polled += 1
            if polled == 1:
                raise OSError(5, "Input/output error")
            return await refresh(users)

        monkeypatch.setattr(a.sessions, "expire", sweep)
        monkeypatch.setattr(a.models, "refresh", poll)
        store.failing = {"ping"}
        breaker = CircuitBreaker(store)
        watching = asyncio.create_task(breaker.watch())
        async with asyncio.timeout(LIMIT):
            while swept < 3 or polled < 3 or store.failing:
                await asyncio.sleep(0.05)
        assert not watching.done()
        watching.cancel()
        assert "the next one is in" in caplog.text
        session = await a.lifecycle.create("lstm")
        await step(a, session.id, 0)
