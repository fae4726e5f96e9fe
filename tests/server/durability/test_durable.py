"""Durable sessions, by two engines that share a store."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from statecell.tensor import Array
from statecell_server.config import Config
from statecell_server.durability.circuit_breaker import FAILURES, CircuitBreaker
from statecell_server.durability.record import Record
from statecell_server.durability.store import MemoryStore, StateStore, Write
from statecell_server.engine.engine import Engine
from statecell_server.engine.ticket import Ticket
from statecell_server.errors import (
    Draining,
    InvalidRequest,
    SessionNotFound,
    SnapshotMismatch,
    StatecellError,
    StepOutOfOrder,
    StoreUnavailable,
)

X = np.random.default_rng(0).standard_normal((16, 1, 1, 10), np.float32)
"""[steps, 1, 1, input_size]"""


@asynccontextmanager
async def engines(lstm_only: Path, store: StateStore | None, count: int = 2, **options: object) -> AsyncIterator[list[Engine]]:
    made = [Engine(Config(models=lstm_only, **options), store) for _ in range(count)]  # type: ignore[arg-type]
    for engine in made:
        await engine.start()
    yield made
    for engine in made:
        await engine.stop()


@pytest.fixture
async def pair(lstm_only: Path) -> AsyncIterator[tuple[Engine, Engine, MemoryStore]]:
    """Two engines and their store."""
    store = MemoryStore(ttl=60)
    async with engines(lstm_only, store) as (a, b):
        yield a, b, store


Pair = tuple[Engine, Engine, MemoryStore]


async def step(engine: Engine, session_id: str, index: int, x: Array | None = None) -> Array:
    outputs, after = await engine.steps.step(session_id, {"x": X[index] if x is None else x}, index)
    assert after == index + 1
    return outputs["y"]


async def expected(engine: Engine, count: int) -> list[Array]:
    """The answers to X of a session in memory."""
    session = await engine.lifecycle.create("lstm")
    return [await step(engine, session.id, i) for i in range(count)]


async def test_a_session_goes_on_at_another_server(pair: Pair) -> None:
    a, b, _ = pair
    session = await a.lifecycle.create("lstm", durable=True)
    answers = [await step(engine, session.id, i) for i, engine in enumerate((a, a, b, b, a, b, a, a))]
    np.testing.assert_array_equal(answers, await expected(a, 8))


async def test_a_repeated_step_is_answered_by_another_server_and_only_the_last_one(pair: Pair) -> None:
    a, b, _ = pair
    session = await a.lifecycle.create("lstm", durable=True)
    answers = [await step(a, session.id, i) for i in range(3)]
    np.testing.assert_array_equal(await step(b, session.id, 2), answers[2])
    with pytest.raises(StepOutOfOrder) as error:
        await step(b, session.id, 1)
    assert error.value.metadata["expected_step_index"] == "3"


async def test_a_server_that_is_behind_does_not_answer_from_its_old_copy(pair: Pair) -> None:
    """Its last reply is of a time before the reset, at the same step_index."""
    a, b, _ = pair
    session = await a.lifecycle.create("lstm", durable=True)
    old = await step(a, session.id, 0, X[5])
    await b.lifecycle.reset(session.id)
    new = await step(b, session.id, 0)
    np.testing.assert_array_equal(await step(a, session.id, 0), new)
    assert not np.array_equal(old, new)
    np.testing.assert_array_equal([new, await step(a, session.id, 1)], await expected(a, 2))


async def test_a_step_without_index_runs_on_what_another_server_left(pair: Pair) -> None:
    a, b, _ = pair
    session = await a.lifecycle.create("lstm", durable=True)
    answers = []
    for i, engine in enumerate((a, b, a, b, a)):
        outputs, _ = await engine.steps.step(session.id, {"x": X[i]}, None)
        answers.append(outputs["y"])
    np.testing.assert_array_equal(answers, await expected(a, 5))


async def test_two_servers_at_once_take_every_step_once(pair: Pair) -> None:
    a, b, _ = pair
    session = await a.lifecycle.create("lstm", durable=True)
    want = await expected(a, 16)
    for i in range(16):
        both = await asyncio.gather(step(a, session.id, i), step(b, session.id, i))
        np.testing.assert_array_equal(both, [want[i], want[i]])


async def test_one_message_may_carry_sessions_from_here_from_there_and_from_nowhere(pair: Pair) -> None:
    a, b, _ = pair
    here, there = await a.lifecycle.create("lstm", durable=True), await b.lifecycle.create("lstm", durable=True)
    await step(b, there.id, 0)
    over = asyncio.Event()
    inputs = np.concatenate([X[0], X[1], X[2]], 1)
    ticket = a.steps.submit([here.id, there.id, "durable-nowhere"], {"x": inputs}, [0, 1, 0], lambda _: over.set())
    await over.wait()
    positions, outputs, indexes = ticket.outcome()
    assert (positions, indexes, list(ticket.errors)) == ([0, 1], [1, 2], [2])
    assert isinstance(ticket.errors[2], SessionNotFound)
    want = await expected(a, 2)
    np.testing.assert_array_equal(outputs[0][:, 0], want[0][0])
    np.testing.assert_array_equal(outputs[0][:, 1], want[1][0])


async def test_state_fork_reset_and_delete_see_what_another_server_did(pair: Pair) -> None:
    a, b, _ = pair
    session = await a.lifecycle.create("lstm", durable=True)
    await step(a, session.id, 0)
    for i in (1, 2):
        await step(b, session.id, i)
    assert (await a.lifecycle.snapshot(session.id)).step_index == 3
    forks = await a.lifecycle.fork(session.id, 2)
    want = await step(b, session.id, 3)
    for fork in forks:
        np.testing.assert_array_equal(await step(b, fork.id, 3), want)
    assert (await a.lifecycle.reset(session.id)).step_index == 0
    np.testing.assert_array_equal(await step(b, session.id, 0), (await expected(a, 1))[0])
    await a.lifecycle.delete(session.id)
    with pytest.raises(SessionNotFound):
        await step(b, session.id, 1)
    with pytest.raises(SessionNotFound):
        await b.lifecycle.delete(session.id)


async def test_a_snapshot_moves_between_sessions_in_memory_and_durable_ones(pair: Pair) -> None:
    a, b, _ = pair
    session = await a.lifecycle.create("lstm")
    for i in range(3):
        await step(a, session.id, i)
    snapshot = await a.lifecycle.snapshot(session.id)
    moved = await b.lifecycle.create("lstm", snapshot=snapshot, checksum=snapshot.checksum(), durable=True)
    np.testing.assert_array_equal(await step(a, moved.id, 3), await step(a, session.id, 3))


async def test_a_session_of_several_rows_and_steps_is_repeated_whole(pair: Pair) -> None:
    a, b, _ = pair
    session = await a.lifecycle.create("lstm", batch=3, durable=True)
    x = np.random.default_rng(1).standard_normal((40, 3, 10), np.float32)
    first, _ = await a.steps.step(session.id, {"x": x}, 0)
    again, index = await b.steps.step(session.id, {"x": x}, 0)
    assert index == 40
    np.testing.assert_array_equal(first["y"], again["y"])


async def test_a_record_of_another_digest_is_refused(pair: Pair) -> None:
    a, b, store = pair
    session = await a.lifecycle.create("lstm", durable=True)
    (data,) = await store.load([session.id])
    assert data is not None
    record = Record.decode(data)
    fields = {name: getattr(record, name) for name in Record.__slots__}
    foreign = Record(**{**fields, "digest": "0" * 64}).encode()
    assert await store.write([Write(session.id, record.fence, foreign)]) == [None]
    with pytest.raises(SnapshotMismatch, match="digest 000000000000"):
        await step(b, session.id, 0)


async def test_a_damaged_record_is_refused(pair: Pair) -> None:
    a, b, store = pair
    session = await a.lifecycle.create("lstm", durable=True)
    (data,) = await store.load([session.id])
    assert data is not None
    assert await store.write([Write(session.id, data[:16], data[:-1] + b"!")]) == [None]
    with pytest.raises(SnapshotMismatch, match="damaged"):
        await step(b, session.id, 0)


async def test_a_server_without_a_store_refuses_durable_sessions(lstm_only: Path) -> None:
    async with engines(lstm_only, None, 1) as (engine,):
        with pytest.raises(InvalidRequest, match="--store"):
            await engine.lifecycle.create("lstm", durable=True)


async def test_sessions_expire_in_the_store_too(lstm_only: Path) -> None:
    async with engines(lstm_only, MemoryStore(ttl=0.2)) as (a, b):
        session = await a.lifecycle.create("lstm", durable=True)
        await step(a, session.id, 0)
        await asyncio.sleep(0.3)
        with pytest.raises(SessionNotFound):
            await step(b, session.id, 1)
        with pytest.raises(SessionNotFound):
            await step(a, session.id, 1)


async def test_a_full_server_lets_go_of_idle_durable_sessions_and_loads_them_again(lstm_only: Path) -> None:
    async with engines(lstm_only, MemoryStore(ttl=60), 1, state_memory=4 * 320, spill_memory=0) as (engine,):  # room for four
        sessions = [await engine.lifecycle.create("lstm", durable=True) for _ in range(9)]
        assert len(engine.sessions) == 4
        want = await expected(engine, 2)
        for i in range(2):
            for session in sessions:
                np.testing.assert_array_equal(await step(engine, session.id, i), want[i])


async def test_a_draining_server_sends_durable_sessions_to_another(pair: Pair) -> None:
    a, b, _ = pair
    session = await a.lifecycle.create("lstm", durable=True)
    await a.drain()
    with pytest.raises(Draining):
        await step(a, session.id, 0)
    with pytest.raises(Draining):
        await a.lifecycle.create("lstm", durable=True)
    await step(b, session.id, 0)


async def test_a_drain_saves_what_a_batch_on_its_way_to_the_store_moves_on(lstm_only: Path) -> None:
    """One of its two sessions is due to be written, the other is not, and both move on when the store has answered."""
    store = LateStore()
    async with engines(lstm_only, store, save_every=2) as (a, b):
        due, other = [await a.lifecycle.create("lstm", durable=True) for _ in range(2)]
        want = await expected(b, 3)
        await step(a, due.id, 0)
        store.writing.clear()
        store.seconds = [0.1]
        answered: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
        a.steps.submit([due.id, other.id], {"x": np.concatenate([X[1], X[0]], 1)}, [1, 0], answered.set_result)
        await store.writing.wait()
        await a.drain()
        (y,) = (await answered).outcome()[1]
        np.testing.assert_array_equal(y, np.concatenate([want[1], want[0]], 1))
        np.testing.assert_array_equal([await step(b, due.id, 2), await step(b, other.id, 1)], [want[2], want[1]])


async def test_every_so_many_steps_only_some_are_written_and_the_rest_when_idle(lstm_only: Path) -> None:
    store = MemoryStore(ttl=60)
    async with engines(lstm_only, store, save_every=4) as (a, b):
        session = await a.lifecycle.create("lstm", durable=True)

        async def stored() -> int:
            (data,) = await store.load([session.id])
            assert data is not None
            return Record.decode(data).step_index

        seen = []
        for i in range(6):
            await step(a, session.id, i)
            seen.append(await stored())
        assert seen == [0, 0, 0, 4, 4, 4]
        assert (await a.lifecycle.snapshot(session.id)).step_index == 6
        (fork,) = await a.lifecycle.fork(session.id, 1)
        assert fork.step_index == 6
        while await stored() < 6:
            await asyncio.sleep(0.1)
        np.testing.assert_array_equal(await step(b, session.id, 6), await step(b, fork.id, 6))


@dataclass
class BrokenStore(MemoryStore):
    """A store that can be taken away."""

    broken: bool = False

    def __post_init__(self) -> None:
        super().__init__(ttl=60)

    async def write(self, writes: Sequence[Write]) -> list[StatecellError | None]:
        self.check()
        return await super().write(writes)

    async def ping(self) -> None:
        self.check()

    def check(self) -> None:
        if self.broken:
            raise StoreUnavailable("gone")


async def test_the_circuit_opens_after_failures_and_a_ping_closes_it() -> None:
    changes: list[bool] = []
    inner = BrokenStore()
    store = CircuitBreaker(inner, lambda: changes.append(store.open))
    inner.broken = True
    for _ in range(FAILURES):
        with pytest.raises(StoreUnavailable) as error:
            await store.write([])
        assert error.value.metadata["applied"] == "unknown"
    with pytest.raises(StoreUnavailable) as error:
        await store.write([])
    assert error.value.metadata["applied"] == "no"
    inner.broken = False
    watching = asyncio.create_task(store.watch())
    while store.open:
        await asyncio.sleep(0.01)
    watching.cancel()
    assert await store.write([]) == []
    assert changes == [True, False]


async def test_a_step_whose_write_fails_leaves_the_state_as_it_was(lstm_only: Path) -> None:
    store = BrokenStore()
    async with engines(lstm_only, store, 1) as (engine,):
        want = await expected(engine, 3)
        session = await engine.lifecycle.create("lstm", durable=True)
        await step(engine, session.id, 0)
        store.broken = True
        used = engine.models.of(session).arena.used
        failed = await asyncio.gather(*(step(engine, session.id, i) for i in (1, 2)), return_exceptions=True)
        assert [type(error) for error in failed] == [StoreUnavailable, StoreUnavailable]
        assert (session.step_index, engine.models.of(session).arena.used) == (1, used)
        store.broken = False
        np.testing.assert_array_equal([await step(engine, session.id, i) for i in (1, 2)], want[1:])


class LateStore(MemoryStore):
    """A store that takes its time, for the first call the longest."""

    def __init__(self) -> None:
        super().__init__(ttl=60)
        self.seconds = [0.1, 0.05]
        self.writing = asyncio.Event()

    async def load(self, session_ids: Sequence[str]) -> list[bytes | None]:
        await self.wait()
        return await super().load(session_ids)

    async def write(self, writes: Sequence[Write]) -> list[StatecellError | None]:
        self.writing.set()
        await self.wait()
        return await super().write(writes)

    async def wait(self) -> None:
        await asyncio.sleep(self.seconds.pop(0) if self.seconds else 0)


async def test_steps_that_are_sent_ahead_to_a_server_that_has_to_load_keep_their_order(lstm_only: Path) -> None:
    store = LateStore()
    async with engines(lstm_only, store) as (a, b):
        session = await a.lifecycle.create("lstm", durable=True)
        first = await step(a, session.id, 0)
        store.seconds = [0.1, 0.05, 0.02]
        rest = await asyncio.gather(*(step(b, session.id, i) for i in range(1, 12)))
        np.testing.assert_array_equal([first, *rest], await expected(a, 12))


async def test_a_step_that_is_cancelled_while_it_is_written_has_happened(lstm_only: Path) -> None:
    """The store has it; only its caller has gone. Repeated, it gives its reply."""
    store = LateStore()
    async with engines(lstm_only, store, 1) as (engine,):
        session = await engine.lifecycle.create("lstm", durable=True)
        store.writing.clear()
        store.seconds = [0.1]
        cancelled = asyncio.create_task(step(engine, session.id, 0))
        await store.writing.wait()
        cancelled.cancel()
        await asyncio.sleep(0.2)
        assert session.step_index == 1
        np.testing.assert_array_equal([await step(engine, session.id, i) for i in (0, 1)], await expected(engine, 2))


async def test_a_session_in_memory_does_not_wait_for_the_store(lstm_only: Path) -> None:
    store = LateStore()
    async with engines(lstm_only, store, 1) as (engine,):
        durable, volatile = await engine.lifecycle.create("lstm", durable=True), await engine.lifecycle.create("lstm")
        store.seconds = [0.5]
        waiting = asyncio.create_task(step(engine, durable.id, 0))
        for i in range(16):
            await step(engine, volatile.id, i)
        assert not waiting.done()
        await waiting


async def test_a_session_too_large_to_be_written_beside_others_is_refused_by_name(lstm_only: Path) -> None:
    state = 2 * 2 * 20 * 4  # bytes a row: h and c of two layers of 20
    async with engines(lstm_only, MemoryStore(ttl=60), 1, max_record=40 * state) as (engine,):
        await engine.lifecycle.create("lstm", batch=20, durable=True)
        await engine.lifecycle.create("lstm", batch=21)
        with pytest.raises(InvalidRequest, match=r"batch is 21, of 6720 bytes of state.*--max-record"):
            await engine.lifecycle.create("lstm", batch=21, durable=True)


async def test_a_step_whose_reply_is_too_large_for_its_record_leaves_the_session_as_it_was(lstm_only: Path) -> None:
    long = np.random.default_rng(3).standard_normal((200, 1, 10), np.float32)  # its reply takes 16000 bytes
    async with engines(lstm_only, MemoryStore(ttl=60), 1, max_record=8000) as (engine,):
        session = await engine.lifecycle.create("lstm", durable=True)
        first = await step(engine, session.id, 0)
        with pytest.raises(InvalidRequest, match=r"would take 16320 bytes.*send fewer time steps at once"):
            await engine.steps.step(session.id, {"x": long}, 1)
        second = await step(engine, session.id, 1)
        np.testing.assert_array_equal([first, second], await expected(engine, 2))


class SlowToTell(MemoryStore):
    """What it gives was read some time before."""

    def __init__(self) -> None:
        super().__init__(ttl=60)
        self.read, self.told = asyncio.Event(), asyncio.Event()

    async def load(self, session_ids: Sequence[str]) -> list[bytes | None]:
        found = await super().load(session_ids)
        self.read.set()
        await self.told.wait()
        return found


async def test_a_record_that_was_read_before_a_session_moved_on_does_not_set_it_back(lstm_only: Path) -> None:
    store = SlowToTell()
    async with engines(lstm_only, store, 1) as (engine,):
        session = await engine.lifecycle.create("lstm", durable=True)
        await step(engine, session.id, 0)
        looking = asyncio.create_task(engine.lifecycle.attach(session.id, doubt=True))
        await store.read.wait()
        await step(engine, session.id, 1)
        store.told.set()
        assert (await looking).step_index == 2
        await step(engine, session.id, 2)
