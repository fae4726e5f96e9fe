"""Durable sessions of a server with several workers, one of which dies."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Serve
from tests.faults.replicas import Redis
from tests.server.caller import Caller
from tests.server.workers.conftest import Crowd, children
from tests.server.workers.test_life import stepped

X = np.ones((1, 1, 10), "float32")


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server: install it to test durable sessions")
def test_durable_sessions_go_on_when_their_worker_is_killed(serve: Serve, lstm_only: Path, tmp_path: Path) -> None:
    with Redis(tmp_path) as redis, serve("--workers", "2", "--store", redis.url, models=lstm_only) as server:
        crowd = Crowd(server.address)
        sessions = [caller.create("lstm", durable=True) for caller in crowd.callers for _ in range(2)]
        for session in sessions:
            for index in range(3):
                crowd.callers[index % len(crowd.callers)].step(session, X, index)
        for pid in children(server):
            os.kill(pid, signal.SIGKILL)
            caller = Caller(server.address)
            for session in sessions:
                assert stepped(caller, session) == "OK"
            caller.channel.close()
        last = Caller(server.address)
        expected = next(iter(last.infer("lstm", np.concatenate([X] * 6)).values()))[5:]
        for session in sessions:
            assert np.allclose(last.step(session, X, 5), expected, atol=1e-6)
        assert server.stop() == 0
