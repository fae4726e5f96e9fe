"""Durable sequences at several servers at random: with and without indexes and request ids, repeated, given up, sent twice."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from statecell.tensor import Array
from statecell_server.config import Config
from statecell_server.durability.circuit_breaker import CircuitBreaker
from statecell_server.durability.store import MemoryStore, Write
from statecell_server.engine.engine import Engine
from statecell_server.errors import SessionContended, StatecellError, StepOutOfOrder
from statecell_server.protocols.oip.request import Answer, SequenceRequest
from statecell_server.protocols.oip.sequence_log import SequenceLog
from statecell_server.protocols.oip.sequences import Sequences

SERVERS, CLIENTS, LENGTH = 3, 12, 14
X = np.random.default_rng(11).standard_normal((CLIENTS, LENGTH, 1, 10), np.float32)
"""[clients, seq_len, 1, input_size]"""


class DistantStore(MemoryStore):
    """Takes a few turns of the loop, to and fro."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(ttl=60)
        self._chance = chance

    async def write(self, writes: Sequence[Write]) -> list[StatecellError | None]:
        await self._travel()
        errors = await super().write(writes)
        await self._travel()
        return errors

    async def load(self, session_ids: Sequence[str]) -> list[bytes | None]:
        await self._travel()
        found = await super().load(session_ids)
        await self._travel()
        return found

    async def _travel(self) -> None:
        for _ in range(self._chance.randrange(12)):
            await asyncio.sleep(0)


class Client:
    """Of one sequence, whose requests go to any server."""

    def __init__(self, number: int, servers: Sequence[Sequences], chance: random.Random, done: Counter[str]) -> None:
        self._number, self._servers, self._chance, self._done = number, servers, chance, done
        self._counts = number % 3 > 0  # it sends step_index
        self._names = number % 2 > 0  # it sends request ids

    def _request(self, start: int, stop: int) -> SequenceRequest:
        return SequenceRequest(
            "lstm",
            "",
            f"client {self._number}",
            {"x": X[self._number, start:stop]},
            request_id=f"{start}" if self._names else "",
            step_index=start if self._counts and start else None,
            start=start == 0,
            durable=start == 0,
        )

    async def _ask(self, start: int, stop: int) -> Answer:
        """At any server, until it is answered: what a client with an index may do."""
        while True:
            try:
                return await self._chance.choice(self._servers).step(self._request(start, stop))
            except SessionContended:
                self._done["contended"] += 1

    async def _answer(self, start: int, stop: int) -> list[Answer]:
        """One way or another; the answers, which must be equal."""
        way = self._chance.choice(["once", "again", "given up", "twice"]) if self._counts and start else "once"
        self._done[way] += 1
        match way:
            case "again":
                return [await self._ask(start, stop), await self._ask(start, stop)]
            case "given up":
                task = asyncio.create_task(self._ask(start, stop))
                for _ in range(self._chance.randrange(20)):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                return [await self._ask(start, stop)]
            case "twice":
                return list(await asyncio.gather(self._ask(start, stop), self._ask(start, stop)))
        if self._counts:
            return [await self._ask(start, stop)]
        return [await self._chance.choice(self._servers).step(self._request(start, stop))]

    async def run(self) -> Array:
        """All of its outputs, [seq_len, 1, hidden_size]."""
        outputs, start = [], 0
        while start < LENGTH:
            stop = min(start + self._chance.choice([1, 1, 1, 2, 3]), LENGTH)
            answers = await self._answer(start, stop)
            for answer in answers:
                assert answer.step_index == stop
                np.testing.assert_array_equal(answer.outputs["y"], answers[0].outputs["y"])
            outputs.append(answers[0].outputs["y"])
            start = stop
        return np.concatenate(outputs)


async def test_every_answer_is_exact(lstm_only: Path) -> None:
    done: Counter[str] = Counter()
    store = DistantStore(random.Random(0))
    engines = [Engine(Config(models=lstm_only), CircuitBreaker(store)) for _ in range(SERVERS)]
    for engine in engines:
        await engine.start()
    whole = [(await engines[0].steps.infer("lstm", "", {"x": x}))["y"] for x in X]
    for seed in range(120):
        chance = random.Random(seed)
        servers = [Sequences(engine, SequenceLog(None, 60)) for engine in engines]
        clients = [Client(number, servers, chance, done) for number in range(CLIENTS)]
        for client, got in enumerate(await asyncio.gather(*(client.run() for client in clients))):
            np.testing.assert_array_equal(got, whole[client], err_msg=f"client {client} of seed {seed}")
        for client in range(CLIENTS):
            await engines[seed % SERVERS].lifecycle.delete(f"durable-sequence/lstm/client {client}")
    assert min(done[way] for way in ("once", "again", "given up", "twice")) > 400, done
    for engine in engines:
        await engine.stop()


async def test_an_index_that_is_past_is_refused_wherever_it_is_sent(lstm_only: Path) -> None:
    engines = [Engine(Config(models=lstm_only), store) for store in [MemoryStore(60)] for _ in range(2)]
    for engine in engines:
        await engine.start()
    a, b = (Sequences(engine, SequenceLog(None, 60)) for engine in engines)
    client = Client(1, [a], random.Random(0), Counter())
    for at in range(3):
        await a.step(client._request(at, at + 1))
    for server in (b, a):
        with pytest.raises(StepOutOfOrder):
            await server.step(client._request(1, 2))
    for engine in engines:
        await engine.stop()
