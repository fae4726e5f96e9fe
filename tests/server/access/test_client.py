"""The Python client and the command send a token, and never say it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from statecell_client import AsyncClient, Client, Unauthenticated

from tests.server.access.conftest import Guarded

X = np.ones(10, np.float32)


def test_the_client_steps_with_its_token_and_not_without(guarded: Guarded) -> None:
    address, token = guarded.server.address, guarded.tokens["alice"]
    with Client(address, token=token) as client, client.session("lstm") as session:
        once = session.step(X)
        assert np.asarray(list(session.stream([X, X]))).shape[0] == 2
        assert once.shape
    for wrong in (None, token[:-1] + "!"):
        with Client(address, token=wrong) as client, pytest.raises(Unauthenticated, match="token"):
            client.models()


async def test_the_asyncio_client_does_too(guarded: Guarded) -> None:
    client = AsyncClient(guarded.server.address, token=guarded.tokens["bob"])
    async with client, client.session("lstm") as session:
        await session.step(X)


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "ü"])
def test_what_can_be_no_token_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(ValueError, match="no token in it"):
        Client("localhost:1", token=token)


def test_the_command_takes_it_from_a_file(guarded: Guarded, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(guarded.tokens["alice"] + "\n")

    def command(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "statecell_client", *words, "models", "--server", guarded.server.address]
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False, env=env)

    assert "lstm" in command("--token-file", str(file)).stdout
    assert "lstm" in command(STATECELL_TOKEN_FILE=str(file)).stdout
    without, missing = command(), command("--token-file", str(tmp_path / "none"))
    assert without.returncode == 1
    assert "Unauthenticated" in without.stderr
    assert missing.returncode == 2
