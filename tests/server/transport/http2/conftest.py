"""The front by itself, on both event loops."""

import logging
import time
from collections.abc import Callable, Iterator

import pytest

from tests.server.transport.http2.echo import Front
from tests.server.transport.http2.raw import PATIENCE, Raw


@pytest.fixture(params=["uvloop", "asyncio"])
def front(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[Front]:
    """Ends with no call and no connection left, and with nothing logged that nobody expected."""
    loop_factory = pytest.importorskip("uvloop").new_event_loop if request.param == "uvloop" else None
    front = Front(loop_factory)
    yield front
    settle(lambda: not front.calls)
    front.close()
    assert front.errors == []
    assert [r for r in caplog.records if r.levelno >= logging.ERROR and r.message != "a call failed"] == []


@pytest.fixture
def raw(front: Front) -> Iterator[Raw]:
    with Raw(front.address) as raw:
        yield raw


def settle(true: Callable[[], bool]) -> None:
    """Waits until it is."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.01)
