"""A store that stalls, is cut off, is restarted, or is full."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from statecell_client import Client

from tests.faults.figures import Figures
from tests.faults.load import INPUT_SIZE, Load, LocalRun
from tests.faults.proxy import FaultProxy
from tests.faults.replicas import Redis, Replica
from tests.server.caller import Caller, reason_of

SESSIONS = 16
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
Fault = Callable[[FaultProxy, Redis], None]


def stall(road: FaultProxy, redis: Redis) -> None:
    road.stall()


def cut(road: FaultProxy, redis: Redis) -> None:
    road.cut()


def reset(road: FaultProxy, redis: Redis) -> None:
    road.reset()


def kill(road: FaultProxy, redis: Redis) -> None:
    redis.kill()


def mend(road: FaultProxy, redis: Redis) -> None:
    road.mend()


def restart(road: FaultProxy, redis: Redis) -> None:
    redis.start()


def slow(road: FaultProxy, redis: Redis) -> None:
    road.delay(0.02)


@pytest.mark.parametrize(
    ("fault", "end"),
    [
        pytest.param(stall, mend, id="stalled for 1.5 s"),
        pytest.param(cut, mend, id="cut off for 1.5 s"),
        pytest.param(kill, restart, id="killed and started again after 1.5 s"),
        pytest.param(reset, mend, id="connections reset"),
        pytest.param(slow, mend, id="40 ms slower for 1.5 s"),
    ],
)
async def test_no_step_is_lost_or_doubled_when_the_store_is_in_trouble(
    fault: Fault,
    end: Fault,
    model: Path,
    redis: Redis,
    road: FaultProxy,
    local: LocalRun,
    figures: Figures,
    request: pytest.FixtureRequest,
) -> None:
    flags = ("--store", road.url)
    with Replica(model, *flags) as a, Replica(model, *flags) as b:
        async with Load([a.address, b.address], sessions=SESSIONS) as load:
            await load.progress(10)
            await asyncio.to_thread(fault, road, redis)
            await asyncio.sleep(1.5)
            await asyncio.to_thread(end, road, redis)
            await load.progress(10)
            figures.add(await load.verify(f"the store {request.node.callspec.id}", local))


@pytest.fixture
def replica(model: Path, road: FaultProxy) -> Iterator[Replica]:
    """One, whose way to the store can be disturbed."""
    with Replica(model, "--store", road.url) as replica:
        yield replica


def health(replica: Replica, service: str) -> int:
    with grpc.insecure_channel(replica.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(health_pb2.HealthCheckRequest(service=service)).status)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def test_a_stalled_store_fails_durable_steps_soon_leaves_the_others_alone_and_comes_back_by_itself(
    replica: Replica, road: FaultProxy
) -> None:
    caller = Caller(replica.address)
    x = np.ones((1, 1, INPUT_SIZE), "f4")
    durable, volatile = caller.create("lstm", durable=True), caller.create("lstm")
    expected = [caller.step(volatile, x, i) for i in range(3)]
    np.testing.assert_array_equal(caller.step(durable, x, 0), expected[0])
    road.stall()
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as failure:
        caller.step(durable, x, 1)
    assert time.monotonic() - began < 5
    assert (failure.value.code(), reason_of(failure.value)) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    details = rpc_status.from_call(failure.value).details
    assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in details)
    waits = []
    for index in range(3, 200):
        began = time.monotonic()
        caller.step(volatile, x, index)
        waits.append(time.monotonic() - began)
    assert sorted(waits)[-5] < 0.25  # a few may find the machine busy
    until(lambda: health(replica, "statecell.store") == NOT_SERVING)
    assert health(replica, "") == SERVING
    refusals = []
    for _ in range(5):  # the circuit is open: at once, whenever the machine has the time
        began = time.monotonic()
        with pytest.raises(grpc.RpcError):
            caller.step(durable, x, 1)
        refusals.append(time.monotonic() - began)
    assert min(refusals) < 0.25
    road.mend()
    until(lambda: health(replica, "statecell.store") == SERVING)
    np.testing.assert_array_equal(caller.step(durable, x, 1), expected[1])
    np.testing.assert_array_equal(caller.step(durable, x, 2), expected[2])


def test_a_full_store_is_named_and_nothing_is_lost(redis: Redis, replica: Replica, local: LocalRun) -> None:
    caller = Caller(replica.address)
    xs = np.random.default_rng(0).standard_normal((4, INPUT_SIZE), np.float32)
    session = caller.create("lstm", durable=True)
    ys = [caller.step(session, xs[i].reshape(1, 1, -1), i) for i in range(2)]
    assert redis.command("CONFIG", "SET", "maxmemory", "1") == "+OK"
    with pytest.raises(grpc.RpcError) as failure:
        caller.step(session, xs[2].reshape(1, 1, -1), 2)
    assert (failure.value.code(), reason_of(failure.value)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL")
    with pytest.raises(grpc.RpcError) as failure:
        caller.create("lstm", durable=True)
    assert reason_of(failure.value) == "STORE_FULL"
    assert caller.index(session) == 2
    assert redis.command("CONFIG", "SET", "maxmemory", "0") == "+OK"
    ys += [caller.step(session, xs[i].reshape(1, 1, -1), i) for i in (2, 3)]
    np.testing.assert_array_equal(np.concatenate(ys)[:, 0], local(list(xs))[0])


async def test_a_server_whose_store_is_down_at_the_start_serves_and_finds_it_later(
    model: Path, redis: Redis, road: FaultProxy
) -> None:
    road.cut()
    with Replica(model, "--store", road.url) as replica, Client(replica.address) as client:
        with client.session("lstm") as session:
            session.step(np.ones(INPUT_SIZE, "f4"))
        until(lambda: health(replica, "statecell.store") == NOT_SERVING)
        road.mend()
        with client.session("lstm", durable=True) as session:
            session.step(np.ones(INPUT_SIZE, "f4"))
