"""Servers on a core of their own, as the benchmark starts them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.process import Server, listening, module
from bench.setup import Setup, SetupError, build, cores


@pytest.fixture(scope="session")
def server_core() -> int:
    try:
        return cores()[0]
    except SetupError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", params=["c++", "python"])
def setup(request: pytest.FixtureRequest, server_core: int) -> Setup:
    """Short measurements with each of the two load programs."""
    client = None
    if request.param == "c++":
        try:
            client = build("client")
        except SetupError as error:
            pytest.skip(str(error))
    return Setup(server_core, cores()[1], seconds=0.2, warm=0.05, quick=True, client=client, echo=None)


@pytest.fixture(scope="session")
def statecell(models: Path, server_core: int) -> Iterator[Server]:
    with listening(module("statecell_server", "--models", models, "--port", 0), server_core) as server:
        yield server


@pytest.fixture(scope="session")
def echo(server_core: int) -> Iterator[Server]:
    with listening(module("bench.echo"), server_core) as server:
        yield server
