"""HAProxy, nginx and Envoy as deploy/ configures them, in front of two replicas: under load, through kills and restarts."""

import asyncio
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from statecell.tensor import pack
from statecell.v1 import inference_pb2 as pb
from statecell.v1.inference_pb2_grpc import InferenceServiceStub

from tests.deploy.routers import COMMANDS, Routed, Router, missing
from tests.faults.load import INPUT_SIZE, Load, LocalRun
from tests.faults.replicas import Redis

SESSIONS = 16
COUNTED = 1.5
"""Seconds within which a server has counted the sessions that it took over."""


@dataclass
class Site:
    """A router and the replicas behind it."""

    program: str
    router: Router
    one: Routed
    two: Routed


@pytest.fixture(params=COMMANDS)
def site(request: pytest.FixtureRequest, model: Path, redis: Redis, tmp_path: Path) -> Iterator[Site]:
    if why := missing(request.param):
        pytest.skip(why)
    flags = ("--store", redis.url, "--drain-seconds", "8")
    with Routed(model, *flags) as one, Routed(model, *flags) as two, Router(request.param, tmp_path, (one, two)) as router:
        yield Site(request.param, router, one, two)


def metric(replica: Routed, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{replica.http_port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition(" ")[0].partition("{")[0] == name)


def taken(*replicas: Routed) -> float:
    """How many durable sessions came to these from elsewhere."""
    return sum(metric(replica, "statecell_sessions_taken_over_total") for replica in replicas)


def steps(replica: Routed) -> float:
    return metric(replica, "statecell_steps_total")


async def test_sessions_stick_and_go_on_through_a_kill_and_a_rolling_restart(site: Site, local: LocalRun) -> None:
    one, two = site.one, site.two
    async with Load([site.router.address], sessions=SESSIONS, tls=site.router.tls) as load:
        async with asyncio.timeout(60):
            while not (steps(one) and steps(two)):  # until the router has found both
                await load.progress(1)
        await load.progress(10)
        await asyncio.sleep(COUNTED)
        settled, before = taken(one, two), (steps(one), steps(two))
        await load.progress(20)
        await asyncio.sleep(COUNTED)
        assert taken(one, two) == settled, "a session has moved, and nothing had happened"
        assert steps(one) > before[0]
        assert steps(two) > before[1]
        already = taken(two)
        await asyncio.to_thread(one.kill)
        await load.progress(10)
        await asyncio.sleep(COUNTED)
        assert 0 < taken(two) - already < SESSIONS, "the killed replica's sessions moved, and those of the other stayed"
        await asyncio.to_thread(one.start)
        for replica in (one, two):
            await load.progress(10)
            assert await asyncio.to_thread(replica.stop) == 0
            await load.progress(5)
            await asyncio.to_thread(replica.start)
        await load.progress(10)
        await load.verify("", local)


class Caller:
    """Steps one durable session by plain gRPC, one call at a time, and counts what fails; a failed step is sent again."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = InferenceServiceStub(channel)
        self.failed = Counter[str]()
        self.steps = 0

    async def run(self, over: asyncio.Event) -> None:
        made = await self._stub.CreateSession(pb.CreateSessionRequest(model="lstm", batch=1, durable=True))
        name, x = made.session.session_id, pack("x", np.zeros((1, 1, INPUT_SIZE), np.float32))
        while not over.is_set():
            request = pb.StepRequest(session_id=name, inputs=[x], step_index=self.steps)
            try:
                await self._stub.Step(request, metadata=(("x-session-id", name),), timeout=20)
                self.steps += 1
            except grpc.aio.AioRpcError as error:
                self.failed[f"{error.code().name}: {error.details()}"] += 1
            await asyncio.sleep(0.005)


async def test_a_caller_who_does_not_retry_loses_nothing_behind_envoy_and_is_told_to_retry_behind_the_others(
    site: Site,
) -> None:
    over = asyncio.Event()
    async with grpc.aio.secure_channel(site.router.address, site.router.tls.credentials()) as channel:
        callers = [Caller(channel) for _ in range(SESSIONS)]
        tasks = [asyncio.create_task(caller.run(over)) for caller in callers]
        await asyncio.sleep(COUNTED)
        for replica, end in ((site.one, site.one.stop), (site.two, site.two.stop), (site.one, site.one.kill)):
            await asyncio.to_thread(end)
            await asyncio.sleep(1)
            await asyncio.to_thread(replica.start)
            await asyncio.sleep(1)
        over.set()
        await asyncio.gather(*tasks)
    failed = sum((caller.failed for caller in callers), Counter[str]())
    print(f"{site.program}: {sum(caller.steps for caller in callers)} steps, failed: {dict(failed)}")
    assert min(caller.steps for caller in callers) > 100
    if site.program == "envoy":
        assert not failed
    assert all(said.startswith("UNAVAILABLE: ") for said in failed)
