"""SIGTERM, one replica after the other, under load."""

import asyncio
import time
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.faults.figures import Figures
from tests.faults.load import INPUT_SIZE, Load, LocalRun
from tests.faults.proxy import FaultProxy
from tests.faults.replicas import Redis, Replica
from tests.server.caller import Caller, reason_of


@pytest.mark.parametrize("durability", ["every_step", "every=8"])
async def test_a_rolling_restart_fails_no_step(
    durability: str, model: Path, redis: Redis, local: LocalRun, figures: Figures
) -> None:
    flags = ("--store", redis.url, "--drain-seconds", "5", "--durability", durability)
    with Replica(model, *flags) as a, Replica(model, *flags) as b:
        async with Load([a.address, b.address], sessions=32) as load:
            for replica in (a, b, a, b):
                await load.progress(5)
                began = time.monotonic()
                assert await asyncio.to_thread(replica.stop) == 0
                assert time.monotonic() - began < 15
                await asyncio.to_thread(replica.start)
            await load.progress(5)
            figures.add(await load.verify(f"two rolling restarts, {durability}", local))


def test_a_drain_hands_over_what_was_not_in_the_store_yet(model: Path, redis: Redis, local: LocalRun) -> None:
    flags = ("--store", redis.url, "--durability", "every=100")
    xs = np.random.default_rng(0).standard_normal((9, 1, 1, INPUT_SIZE), np.float32)
    with Replica(model, *flags) as a, Replica(model, *flags) as b:
        first, second = Caller(a.address), Caller(b.address)
        session = first.create("lstm", durable=True)
        ys = [first.step(session, xs[i], i) for i in range(5)]
        assert a.stop() == 0
        ys.append(second.step(session, xs[4], 4))  # a repeated step: its reply was handed over too
        np.testing.assert_array_equal(ys.pop(), ys[4])
        ys += [second.step(session, xs[i], i) for i in range(5, 9)]
        np.testing.assert_array_equal(np.concatenate(ys)[:, 0], local([x[0, 0] for x in xs])[0])


def test_a_drain_ends_in_time_though_the_store_is_stalled(model: Path, redis: Redis, road: FaultProxy) -> None:
    with Replica(model, "--store", road.url, "--durability", "every=100", "--drain-seconds", "3") as replica:
        caller = Caller(replica.address)
        session = caller.create("lstm", durable=True)
        caller.step(session, np.ones((1, 1, INPUT_SIZE), "f4"), 0)
        road.stall()
        began = time.monotonic()
        assert replica.stop() == 0
        assert time.monotonic() - began < 10


def test_every_so_many_steps_a_crash_takes_a_session_back_to_its_last_written_step(
    model: Path, redis: Redis, local: LocalRun
) -> None:
    flags = ("--store", redis.url, "--durability", "every=4")
    xs = np.random.default_rng(0).standard_normal((12, 1, 1, INPUT_SIZE), np.float32)
    with Replica(model, *flags) as a, Replica(model, *flags) as b:
        first, second = Caller(a.address), Caller(b.address)
        session = first.create("lstm", durable=True)
        for i in range(6):
            first.step(session, xs[i], i)
        a.kill()
        with pytest.raises(grpc.RpcError) as failure:
            second.step(session, xs[6], 6)
        assert reason_of(failure.value) == "STEP_OUT_OF_ORDER"
        ys = [second.step(session, xs[i], i) for i in range(4, 12)]
        np.testing.assert_array_equal(np.concatenate(ys)[:, 0], local([x[0, 0] for x in xs])[0][4:])
