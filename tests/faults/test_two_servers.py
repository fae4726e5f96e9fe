"""Two replicas that step one session: at the same time, in turns, and one of them late."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier

import grpc
import numpy as np
import pytest
from statecell.tensor import Array

from tests.faults.figures import Figures, Row
from tests.faults.load import INPUT_SIZE, Load, LocalRun
from tests.faults.proxy import FaultProxy
from tests.faults.replicas import Redis, Replica
from tests.server.caller import Caller, reason_of

STEPS = 100


def inputs(count: int) -> Array:
    """[count, 1, 1, input_size]."""
    return np.random.default_rng(0).standard_normal((count, 1, 1, INPUT_SIZE), np.float32)


def test_a_session_that_two_replicas_step_at_once_takes_every_step_once(
    model: Path, redis: Redis, local: LocalRun, figures: Figures
) -> None:
    """Two callers send every step at the same moment; both get its one answer, whichever replica won."""
    xs = inputs(STEPS)
    with Replica(model, "--store", redis.url) as a, Replica(model, "--store", redis.url) as b:
        callers = [Caller(a.address), Caller(b.address)]
        session = callers[0].create("lstm", durable=True)
        both = Barrier(2)
        longest = 0.0

        def steps(caller: Caller) -> list[Array]:
            nonlocal longest
            answers = []
            for index, x in enumerate(xs):
                both.wait(10)
                began = time.monotonic()
                answers.append(caller.step(session, x, index))
                longest = max(longest, time.monotonic() - began)
            return answers

        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(steps, callers))
        expected, final = local([x[0, 0] for x in xs])
        for ys in answers:
            np.testing.assert_array_equal(np.concatenate(ys)[:, 0], expected)
        for caller in callers:
            assert caller.index(session) == STEPS
            np.testing.assert_array_equal(caller.state(session)["h_0"], final[0])
        figures.add(Row("both replicas stepping one session at once", 1, STEPS, 0, 1000 * longest, 0, 0, 0))


def test_a_session_may_change_its_replica_at_every_step(model: Path, redis: Redis, local: LocalRun) -> None:
    xs = inputs(STEPS)
    with Replica(model, "--store", redis.url) as a, Replica(model, "--store", redis.url) as b:
        callers = [Caller(a.address), Caller(b.address)]
        session = callers[0].create("lstm", durable=True)
        ys = [callers[index % 2].step(session, x, index) for index, x in enumerate(xs)]
        np.testing.assert_array_equal(np.concatenate(ys)[:, 0], local([x[0, 0] for x in xs])[0])


def test_a_paused_replica_that_wakes_up_late_overwrites_nothing(model: Path, redis: Redis, local: LocalRun) -> None:
    xs = inputs(12)
    with Replica(model, "--store", redis.url) as a, Replica(model, "--store", redis.url) as b:
        first, second = Caller(a.address), Caller(b.address)
        session = first.create("lstm", durable=True)
        ys = [first.step(session, xs[i], i) for i in range(4)]
        a.pause()
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(first.step, session, xs[4], 4)  # reaches the replica, which sleeps
            time.sleep(0.1)
            ys += [second.step(session, xs[i], i) for i in range(4, 9)]
            a.resume()
            with pytest.raises(grpc.RpcError) as refused:  # it finds out that it is behind
                late.result(10)
            assert reason_of(refused.value) == "STEP_OUT_OF_ORDER"
        ys += [first.step(session, xs[i], i) for i in range(9, 12)]
        np.testing.assert_array_equal(np.concatenate(ys)[:, 0], local([x[0, 0] for x in xs])[0])


def test_a_replica_that_was_cut_off_cannot_overwrite_what_another_has_written(
    model: Path, redis: Redis, local: LocalRun
) -> None:
    """Its write is on the way while another replica serves the session, and arrives afterwards."""
    xs = inputs(12)
    with FaultProxy(redis.port) as road, Replica(model, "--store", road.url) as a, Replica(model, "--store", redis.url) as b:
        first, second = Caller(a.address), Caller(b.address)
        session = first.create("lstm", durable=True)
        ys = [first.step(session, xs[i], i) for i in range(4)]
        road.stall()
        with pytest.raises(grpc.RpcError) as failure:
            first.step(session, -xs[4], 4)
        assert reason_of(failure.value) == "STORE_UNAVAILABLE"
        ys += [second.step(session, xs[i], i) for i in range(4, 9)]
        road.mend()  # now the write arrives
        for i in range(9, 12):
            ys.append(_when_it_is_back(first, session, xs[i], i))
        assert second.index(session) == 12
        np.testing.assert_array_equal(np.concatenate(ys)[:, 0], local([x[0, 0] for x in xs])[0])


def _when_it_is_back(caller: Caller, session: str, x: Array, index: int) -> Array:
    until = time.monotonic() + 60
    while True:
        try:
            return caller.step(session, x, index)
        except grpc.RpcError as error:
            if reason_of(error) != "STORE_UNAVAILABLE" or time.monotonic() > until:
                raise
            time.sleep(0.1)


async def test_no_step_is_lost_or_doubled_when_replicas_sleep_and_wake_up(
    model: Path, redis: Redis, local: LocalRun, figures: Figures
) -> None:
    with ExitStack() as stack:
        replicas = [stack.enter_context(Replica(model, "--store", redis.url)) for _ in range(2)]
        ways = [stack.enter_context(FaultProxy(replica.port)) for replica in replicas]
        async with Load([f"127.0.0.1:{way.port}" for way in ways], sessions=16) as load:
            for turn in range(4):
                await load.progress(5)
                replicas[turn % 2].pause()
                await asyncio.sleep(0.2)
                ways[turn % 2].reset()  # so that the clients give it up before their keepalive does
                await asyncio.sleep(0.3)
                replicas[turn % 2].resume()
            await load.progress(5)
            figures.add(await load.verify("a replica asleep for 0.5 s, 4 times", local))
