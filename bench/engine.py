"""The engine without gRPC. `python -m bench.engine gain|arena REPOSITORY MODEL SIZE SECONDS`, prints JSON."""

import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from statecell.tensor import Array
from statecell_server.__main__ import event_loop
from statecell_server.config import Config
from statecell_server.engine.engine import Engine
from statecell_server.engine.ticket import Ticket

from bench.messages import x

SLOTS = (1_000, 100_000)
AT_ONCE = 64
"""Sessions that step while the others are idle."""


class Callers:
    """Sessions that each take their next step when the last one is answered, as clients with a stream each do."""

    def __init__(self, engine: Engine, ids: Sequence[str], inputs: Array) -> None:
        self._engine, self._ids, self._inputs = engine, ids, inputs
        self._indexes = [0] * len(ids)
        self._first: list[float] = []  # when the first caller was answered

    async def steps_a_second(self, seconds: float) -> float:
        self._end = time.perf_counter() + seconds
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._going = len(self._ids)
        self._first.clear()
        for position in range(len(self._ids)):
            self._step(position)
        await self._over
        return len(self._ids) * (len(self._first) - 1) / (self._first[-1] - self._first[0])

    def _step(self, position: int) -> None:
        self._engine.steps.submit(
            [self._ids[position]], {"x": self._inputs}, [self._indexes[position]], lambda t: self._answered(position, t)
        )

    def _answered(self, position: int, ticket: Ticket) -> None:
        if ticket.errors:
            self._over.set_exception(ticket.errors[0])
            return
        self._indexes[position] = ticket.outcome()[2][0]
        now = time.perf_counter()
        if position == 0:
            self._first.append(now)
        if now < self._end:
            self._step(position)
        else:
            self._going -= 1
            if not self._going:
                self._over.set_result(None)


async def gain(config: Config, model: str, size: int, seconds: float) -> dict[str, float]:
    """Steps a second of 1 session and of 64, each session a request of its own."""
    engine = Engine(config)
    await engine.start()
    found = {}
    for sessions in (1, AT_ONCE):
        ids = [(await engine.lifecycle.create(model)).id for _ in range(sessions)]
        callers = Callers(engine, ids, x(1, 1, size))
        await callers.steps_a_second(seconds / 4)
        found[str(sessions)] = await callers.steps_a_second(seconds)
    await engine.stop()
    return found


async def message(engine: Engine, ids: Sequence[str], inputs: Array) -> float:
    """One request that advances all of them; how long it took."""
    began = time.perf_counter()
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ticket = engine.steps.submit(ids, {"x": inputs}, [None] * len(ids), lambda _: over.set_result(None))
    await over
    if ticket.errors:
        raise next(iter(ticket.errors.values()))
    return time.perf_counter() - began


async def arena(config: Config, model: str, size: int, seconds: float) -> dict[str, float]:
    """Microseconds of a request of 64 sessions, by how many sessions hold a slot. Both take turns."""
    engines, stepping, took = {}, {}, {}
    for slots in SLOTS:
        engine = engines[slots] = Engine(config)
        await engine.start()
        ids = [(await engine.lifecycle.create(model)).id for _ in range(slots)]
        random.Random(0).shuffle(ids)
        for at in range(0, slots, 250):
            await message(engine, ids[at : at + 250], x(1, 250, size))
        stepping[slots], took[slots] = ids[:AT_ONCE], list[float]()
    inputs = x(1, AT_ONCE, size)
    end = time.perf_counter() + 2 * seconds
    while time.perf_counter() < end:
        for slots, engine in engines.items():
            took[slots] += [await message(engine, stepping[slots], inputs) for _ in range(20)]
    for engine in engines.values():
        await engine.stop()
    return {str(slots): 1e6 * statistics.median(times) for slots, times in took.items()}


def main(what: str, repository: str, model: str, size: str, seconds: str) -> None:
    config = Config(models=Path(repository), state_memory=4 << 30)
    measured = {"gain": gain, "arena": arena}[what](config, model, int(size), float(seconds))
    with asyncio.Runner(loop_factory=event_loop()) as runner:
        print(json.dumps(runner.run(measured)))


if __name__ == "__main__":
    main(*sys.argv[1:])
