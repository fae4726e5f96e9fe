"""Fixtures of the server's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Server
from tests.server.caller import Caller


@pytest.fixture
def caller(server: Server) -> Iterator[Caller]:
    """On the module's server."""
    caller = Caller(server.address)
    yield caller
    caller.channel.close()


@pytest.fixture(scope="module")
def lstm_only(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of one model: servers and engines start fast."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "lstm").symlink_to(models / "lstm")
    return folder
