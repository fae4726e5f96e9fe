"""Fixtures of the server's tests."""

from collections.abc import Iterator

import pytest

from tests.conftest import Server
from tests.server.caller import Caller


@pytest.fixture
def caller(server: Server) -> Iterator[Caller]:
    """On the module's server."""
    caller = Caller(server.address)
    yield caller
    caller.channel.close()
