"""What is kept beside the states counts: sessions, replies, ids, waiting requests; and what goes gives its part back."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from statecell.tensor import Array
from statecell_server.config import Config
from statecell_server.durability.store import MemoryStore
from statecell_server.engine.engine import Engine
from statecell_server.errors import InvalidRequest, StateBudgetExceeded, StatecellError
from statecell_server.protocols.oip.request import SequenceRequest
from statecell_server.protocols.oip.sequence_log import SequenceLog
from statecell_server.protocols.oip.sequences import Sequences
from statecell_server.sessions.budget import SESSION_BYTES
from statecell_server.sessions.session import Session


@asynccontextmanager
async def engines(lstm_only: Path, count: int = 1, **options: object) -> AsyncIterator[list[Engine]]:
    store = MemoryStore(60)
    made = [Engine(Config(models=lstm_only, **options), store) for _ in range(count)]  # type: ignore[arg-type]
    for engine in made:
        await engine.start()
    yield made
    for engine in made:
        await engine.stop()


def x(seq_len: int) -> dict[str, Array]:
    return {"x": np.ones((seq_len, 1, 10), np.float32)}


def kept(engine: Engine) -> int:
    """Counted one by one."""
    return sum(SESSION_BYTES + len(s.id) + len(s.reply) for s in engine.sessions)


async def test_sessions_without_end_are_refused_and_those_there_go_on(lstm_only: Path) -> None:
    async with engines(lstm_only, session_memory=100 * SESSION_BYTES) as (engine,):
        found = await asyncio.gather(*(engine.lifecycle.create("lstm") for _ in range(200)), return_exceptions=True)
        made = [f for f in found if isinstance(f, Session)]
        assert 80 < len(made) < 100
        assert all(isinstance(f, Session) or "--session-memory" in str(f) for f in found)
        await engine.lifecycle.delete(made.pop().id)
        for session in made[:10]:
            _, index = await engine.steps.step(session.id, x(1), None)
            assert index == 1
        with pytest.raises(StateBudgetExceeded):
            await engine.lifecycle.fork(made[0].id, 50)
        assert engine.sessions.budget.used == kept(engine)


async def test_a_reply_that_there_is_no_room_for_is_refused_before_its_step(lstm_only: Path) -> None:
    async with engines(lstm_only, session_memory=1 << 20) as (engine,):
        sessions = [await engine.lifecycle.create("lstm") for _ in range(20)]
        refused: list[Session] = []
        for session in sessions:
            try:
                await engine.steps.step(session.id, x(1000), 0)
            except StateBudgetExceeded:
                refused.append(session)
        assert 0 < len(refused) < len(sessions)
        assert engine.sessions.budget.used == kept(engine) <= 1 << 20
        for session in refused:
            assert session.step_index == 0
        for session in sessions:
            if session not in refused:
                await engine.lifecycle.delete(session.id)
        await engine.steps.step(refused[0].id, x(1000), 0)


async def test_an_answer_beyond_the_largest_message_is_refused_before_its_run(lstm_only: Path) -> None:
    async with engines(lstm_only, max_message=1 << 20) as (engine,):
        session = await engine.lifecycle.create("lstm")
        for call in (
            lambda: engine.steps.step(session.id, x(200_000), 0),
            lambda: engine.steps.step(session.id, x(200_000), None),
            lambda: engine.steps.infer("lstm", "", x(200_000)),
        ):
            with pytest.raises(InvalidRequest, match="--max-message"):
                await call()
        assert session.step_index == 0
        assert engine.sessions.budget.used == kept(engine)
        await engine.steps.step(session.id, x(1000), 0)


async def test_waiting_requests_count_while_they_wait(lstm_only: Path) -> None:
    async with engines(lstm_only, session_memory=1 << 20) as (engine,):
        sessions = [await engine.lifecycle.create("lstm") for _ in range(30)]
        calls = [engine.steps.step(session.id, x(1000), None) for session in sessions]
        found = await asyncio.gather(*calls, return_exceptions=True)
        refused = [f for f in found if isinstance(f, BaseException)]
        assert 0 < len(refused) < len(found)
        assert all(isinstance(f, StateBudgetExceeded) for f in refused)
        assert engine.sessions.budget.used == kept(engine)


async def test_what_ended_sequences_were_known_by_is_given_back(lstm_only: Path) -> None:
    async with engines(lstm_only) as (engine,):
        sequences = Sequences(engine, SequenceLog(None, 60))
        budget, most = engine.sessions.budget, 0
        for name in ("a", "b", "c"):
            for t in range(40):
                await sequences.step(
                    SequenceRequest("lstm", "", name, x(1), request_id=f"{name}{t}" * 20, start=t == 0, end=t == 39)
                )
                most = max(most, budget.used)
        assert most > SESSION_BYTES + 16 * 20 * 3
        assert budget.used == 0
        await sequences.step(SequenceRequest("lstm", "", "d", x(1), request_id="1", start=True))
        await sequences.step(SequenceRequest("lstm", "", "d", x(1), request_id="2", start=True, replace=True, end=True))
        assert budget.used == 0


async def test_the_count_is_right_whatever_happens(lstm_only: Path) -> None:
    chance = random.Random(1)
    async with engines(lstm_only, 2) as pair:
        ids: list[str] = []
        for _ in range(600):
            way = chance.randrange(8)
            if way == 0 or not ids:
                ids.append((await chance.choice(pair).lifecycle.create("lstm", durable=chance.random() < 0.5)).id)
                continue
            session_id = chance.choice(ids)
            durable = session_id.startswith("durable-")
            engine = chance.choice([e for e in pair if durable or e.sessions.known(session_id) is not None])
            match way:
                case 1:
                    ids += [s.id for s in await engine.lifecycle.fork(session_id, 2)]
                case 2:
                    await engine.lifecycle.reset(session_id)
                case 3:
                    await engine.lifecycle.delete(session_id)
                    ids.remove(session_id)
                case 4:
                    session = await engine.lifecycle.attach(session_id, doubt=True)
                    task = asyncio.create_task(engine.steps.step(session_id, x(chance.randrange(1, 40)), session.step_index))
                    await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.wait([task])
                case _:
                    session = await engine.lifecycle.attach(session_id, doubt=True)
                    index = chance.choice([None, session.step_index])
                    while session.pending:  # one that was given up may run to its end
                        await asyncio.sleep(0.001)
                    await engine.steps.step(session_id, x(chance.randrange(1, 40)), index)
        for engine in pair:
            await asyncio.sleep(0.1)
            assert engine.sessions.budget.used == kept(engine) > 0


class Told:
    """As gathering.Row: what came of it."""

    def __init__(self) -> None:
        self.index: int | None = None

    def moved(self, reply: bytes, step_index: int) -> None:
        assert len(reply) == 80
        self.index = step_index

    def refused(self, error: StatecellError) -> None:
        raise AssertionError(error)


async def test_rows_that_wait_count_and_are_given_back(lstm_only: Path) -> None:
    """Single steps on their short way: each with what it brings and what it will give."""
    row = np.ones((1, 1, 10), np.float32).tobytes()
    cost = len(row) + 80
    async with engines(lstm_only) as (engine,):
        sessions = [await engine.lifecycle.create("lstm") for _ in range(30)]
        budget = engine.sessions.budget
        before = budget.used
        budget.limit = before + 20 * cost
        rows = [Told() for _ in range(20)]
        for number, told in enumerate(rows, 1):
            assert engine.steps.gather(sessions[number - 1], 0, row, told) is not None
            assert budget.used == before + number * cost
        with pytest.raises(StateBudgetExceeded):
            engine.steps.gather(sessions[20], 0, row, Told())
        assert sessions[20].pending == 0
        budget.limit += 30 * 80  # their replies are kept
        while any(told.index is None for told in rows):
            await asyncio.sleep(0.001)
        assert [told.index for told in rows] == [1] * 20
        assert budget.used == kept(engine) == before + 20 * 80
        late = Told()
        assert engine.steps.gather(sessions[20], 0, row, late) is not None
        while late.index is None:
            await asyncio.sleep(0.001)
