"""The soak finds nothing wrong with the server in a few seconds, and would find what is wrong."""

import random
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest

from bench.soak.clients import Clients, Wrong
from bench.soak.tape import Tape, record
from tests.conftest import LIMIT, Server
from tests.test_packages import ROOT


def test_a_short_soak_finds_every_answer_exact_and_nothing_lost() -> None:
    command = [sys.executable, "-m", "bench.soak", "--minutes", "0.1", "--seed", "3"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "lost: nothing" in ended.stdout
    assert "wrong or failed: 0" in ended.stdout


@pytest.mark.parametrize("kind", ["steps", "chunks", "stream", "streams cut off", "forks", "snapshots", "sequences"])
async def test_an_answer_that_is_off_by_a_bit_is_found(server: Server, models: Path, kind: str) -> None:
    tapes = record(models / "lstm" / "1" / "model.onnx", 1, seed=1)
    bent = tapes[0].y.copy()
    bent.view(np.uint32)[:] ^= 1
    async with grpc.aio.insecure_channel(server.address) as channel:
        right = Clients(server.address, channel, "lstm", tapes, random.Random(0))
        await right.kinds()[kind]()
        assert right.counts[kind if kind in right.counts else "stream"] > 0
        wrong = Clients(server.address, channel, "lstm", [Tape(tapes[0].x, bent)], random.Random(0))
        with pytest.raises(Wrong):
            await wrong.kinds()[kind]()
