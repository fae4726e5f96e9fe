"""A reply that is lost after the state has advanced."""

import asyncio
from pathlib import Path

import numpy as np
from statecell_client import Client, Retry

from tests.faults.figures import Figures
from tests.faults.load import INPUT_SIZE, Load, LocalRun
from tests.faults.proxy import FaultProxy
from tests.faults.replicas import Redis, Replica


async def test_no_step_is_lost_or_doubled_when_replies_are_lost(
    model: Path, redis: Redis, local: LocalRun, figures: Figures
) -> None:
    flags = ("--store", redis.url)
    with Replica(model, *flags) as a, Replica(model, *flags) as b, FaultProxy(a.port) as way_a, FaultProxy(b.port) as way_b:
        ways = [way_a, way_b]
        async with Load([f"127.0.0.1:{way.port}" for way in ways], sessions=16) as load:
            for turn in range(6):
                await load.progress(5)
                way = ways[turn % 2]
                way.deafen()
                await asyncio.sleep(0.1)  # steps go there, are applied, and nobody hears of it
                way.reset()
                way.mend()
            await load.progress(5)
            figures.add(await load.verify("replies dropped, 6 times", local))


def test_a_repeated_step_is_answered_from_the_store_by_the_other_replica(model: Path, redis: Redis, local: LocalRun) -> None:
    flags = ("--store", redis.url)
    xs = list(np.random.default_rng(0).standard_normal((6, INPUT_SIZE), np.float32))
    with (
        Replica(model, *flags) as a,
        Replica(model, *flags) as b,
        FaultProxy(a.port) as way,
        Client([f"127.0.0.1:{way.port}", b.address], retry=Retry(timeout=30)) as client,
    ):
        session = client.session("lstm", durable=True)
        ys = []
        for i, x in enumerate(xs):
            if i % 2:
                way.deafen()
                way.reset()
            ys.append(session.step(x))
            way.mend()
        np.testing.assert_array_equal(np.stack(ys), local(xs)[0])
        assert session.snapshot().step_index == len(xs)
