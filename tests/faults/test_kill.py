"""kill -9 of the serving replica, at random moments, under load."""

import asyncio
import os
import random
from pathlib import Path

from tests.faults.figures import Figures
from tests.faults.load import Load, LocalRun
from tests.faults.replicas import Redis, Replica

KILLS = int(os.environ.get("STATECELL_KILLS", "5"))
"""`make faults` makes 200."""
SESSIONS = 32


async def test_no_step_is_lost_or_doubled_however_often_the_serving_replica_is_killed(
    model: Path, redis: Redis, local: LocalRun, figures: Figures
) -> None:
    moments = random.Random(0)
    flags = ("--store", redis.url)
    with Replica(model, *flags) as a, Replica(model, *flags) as b:
        async with Load([a.address, b.address], sessions=SESSIONS) as load:
            for _ in range(KILLS):
                await load.progress(1)
                await asyncio.sleep(moments.uniform(0.02, 0.3))
                serving = max(a, b, key=lambda replica: load.serving(replica.address))
                await asyncio.to_thread(serving.kill)
                await asyncio.to_thread(serving.start)
            await load.progress(5)
            figures.add(await load.verify(f"kill -9 of the serving replica, {KILLS} times", local))
