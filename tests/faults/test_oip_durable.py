"""Durable sequences of the Open Inference Protocol on two replicas."""

from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.faults.replicas import Redis, Replica
from tests.server.caller import reason_of
from tests.server.oip_caller import OipCaller, request

X = np.random.default_rng(9).standard_normal((8, 1, 10), dtype=np.float32)


def refused(oip: OipCaller, **options: object) -> str:
    """The reason."""
    with pytest.raises(grpc.RpcError) as error:
        oip.stub.ModelInfer(request("lstm", {"x": X[:1]}, **options))  # type: ignore[arg-type]
    return reason_of(error.value)


def test_a_durable_sequence_goes_on_at_another_replica_when_its_own_is_killed(model: Path, redis: Redis) -> None:
    with Replica(model, "--store", redis.url) as a, Replica(model, "--store", redis.url) as b:
        first, second = OipCaller(a.address), OipCaller(b.address)
        whole = second.infer("lstm", X)
        first.infer("lstm", X[:3], sequence_id="patient", sequence_start=True, durable=True)
        first.infer("lstm", X[3:4], sequence_id="patient")
        a.kill()
        rest = second.infer("lstm", X[4:], sequence_id="patient", sequence_end=True)
        assert np.array_equal(rest, whole[4:])
        assert refused(second, sequence_id="patient") == "SESSION_NOT_FOUND"


def test_a_durable_sequence_is_stepped_by_turns_and_each_step_counts_once(model: Path, redis: Redis) -> None:
    with Replica(model, "--store", redis.url) as a, Replica(model, "--store", redis.url) as b:
        callers = [OipCaller(a.address), OipCaller(b.address)]
        whole = callers[0].infer("lstm", X)
        for t in range(8):
            for caller in callers[:: -1 if t % 2 else 1]:
                # The second time it is a retry at the other replica.
                flags = {"sequence_start": True, "durable": True} if t == 0 and caller is callers[0] else {"step_index": t}
                if t == 0 and caller is callers[1]:
                    continue
                step = caller.infer("lstm", X[t : t + 1], sequence_id="turns", **flags)
                assert np.array_equal(step, whole[t : t + 1])


def test_without_step_index_a_request_goes_on_wherever_the_sequence_stands(model: Path, redis: Redis) -> None:
    with Replica(model, "--store", redis.url) as a, Replica(model, "--store", redis.url) as b:
        callers = [OipCaller(a.address), OipCaller(b.address)]
        whole = callers[0].infer("lstm", X)
        for t in range(8):
            start = {"sequence_start": True, "durable": True} if t == 0 else {}
            step = callers[t // 2 % 2].infer("lstm", X[t : t + 1], sequence_id="anywhere", **start)
            assert np.array_equal(step, whole[t : t + 1])


def test_start_on_a_sequence_that_is_live_at_another_replica_is_an_error(model: Path, redis: Redis) -> None:
    with Replica(model, "--store", redis.url) as a, Replica(model, "--store", redis.url) as b:
        first, second = OipCaller(a.address), OipCaller(b.address)
        first.infer("lstm", X[:3], sequence_id="one", sequence_start=True, durable=True)
        assert refused(second, sequence_id="one", sequence_start=True, durable=True) == "SESSION_EXISTS"
        options = {"sequence_start": True, "durable": True, "sequence_replace": True}
        second.infer("lstm", X[:1], sequence_id="one", **options)
        rest = second.infer("lstm", X[1:], sequence_id="one")
        assert np.array_equal(rest, second.infer("lstm", X)[1:])
