"""Fixtures of the tests of servers with several workers."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from tests.conftest import LIMIT, Serve, Server
from tests.server.caller import Caller


def until(true: Callable[[], bool], what: str) -> None:
    """Waits for it."""
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def children(server: Server) -> list[int]:
    """The processes of its workers."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(server.process.pid)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


class Crowd:
    """Callers on connections of their own, at least two of which have come to different workers."""

    def __init__(self, address: str, most: int = 64) -> None:
        self.callers: list[Caller] = []
        marks: set[str] = set()
        while len(marks) < 2:
            assert len(self.callers) < most, "all connections come to one worker"
            caller = Caller(address, ("grpc.use_local_subchannel_pool", 1))
            self.callers.append(caller)
            marks.add(caller.create("lstm")[:8])

    def pair(self) -> tuple[Caller, str, Caller, str]:
        """Two callers of different workers, each with a new session there."""
        found = {(session := caller.create("lstm"))[:8]: (caller, session) for caller in self.callers}
        (here, mine), (there, theirs), *_ = found.values()
        return here, mine, there, theirs

    def close(self) -> None:
        for caller in self.callers:
            caller.channel.close()


@pytest.fixture(scope="module", params=[2, 3])
def crew(
    request: pytest.FixtureRequest, serve: Serve, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of two workers, and one of three."""
    folder = tmp_path_factory.mktemp("alone")
    for name in ("lstm", "gru"):
        (folder / name).symlink_to(models / name)
    with serve("--workers", str(request.param), models=folder) as running:
        yield running
        running.stop()


@pytest.fixture
def crowd(crew: Server) -> Iterator[Crowd]:
    crowd = Crowd(crew.address)
    yield crowd
    crowd.close()


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    """How the call ended."""
    return error.code()
