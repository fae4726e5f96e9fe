"""Exactness is a test, not a hope: to the bit alone, in any batch, at any place, chunked or stepped, whoever comes and goes."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import statecell_export
import torch
from statecell_server.config import Config
from statecell_server.engine.engine import Engine
from statecell_server.engine.ticket import Ticket
from torch import nn

SEQUENCES, SEQ_LEN = 24, 160
SCHEDULES = {"lstm": 10_000, "lstm_int8": 2_000, "gru": 1_000, "rnn": 1_000}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    out = tmp_path_factory.mktemp("exact")
    torch.manual_seed(1)
    lstm = nn.LSTM(6, 33, 2)
    for name, module, form in (
        ("lstm", lstm, "float32"),
        ("lstm_int8", lstm, "int8"),
        ("gru", nn.GRU(6, 17), "float32"),
        ("rnn", nn.RNN(6, 17), "float32"),
    ):
        statecell_export.export(module.eval(), torch.randn(5, 3, 6), name=name, out=out, form=form)
    return Config(models=Path(out))


class Player:
    """Plays sequences through sessions, and compares each piece with the sequence run alone."""

    def __init__(self, engine: Engine, model: str, rng: np.random.Generator) -> None:
        self.engine, self.model, self.rng = engine, model, rng
        self.x = rng.standard_normal((SEQ_LEN, SEQUENCES, 6)).astype(np.float32)

    async def rehearse(self) -> None:
        """What each sequence gives and leaves, run alone and whole."""
        alone = [await self.engine.steps.infer(self.model, "", {"x": self.x[:, i : i + 1]}) for i in range(SEQUENCES)]
        self.y = np.concatenate([found["y"] for found in alone], 1)
        self.h = np.concatenate([found["h_n"] for found in alone], 1)
        self.sessions: list[tuple[str, int]] = [await self.join() for _ in range(SEQUENCES)]

    async def join(self) -> tuple[str, int]:
        return (await self.engine.lifecycle.create(self.model)).id, 0

    async def schedule(self) -> None:
        """Some sessions step together, in an order and by lengths that nobody planned."""
        rng = self.rng
        chosen = rng.permutation(SEQUENCES)[: rng.integers(1, SEQUENCES + 1)].tolist()
        waiting = []
        while chosen:
            together = [chosen.pop() for _ in range(min(len(chosen), int(rng.choice([1, 1, 2, 5]))))]
            longest = min(SEQ_LEN - self.sessions[i][1] for i in together)
            length = int(min(longest, rng.choice([1, 1, 1, 2, 7, 40])))
            waiting.append((together, length, self.submit(together, length)))
        for together, length, answer in waiting:
            _, outputs, _ = (await answer).outcome()
            for row, i in enumerate(together):
                session, at = self.sessions[i]
                assert np.array_equal(outputs[0][:, row], self.y[at : at + length, i])
                self.sessions[i] = (session, at + length)
                if at + length == SEQ_LEN:
                    assert np.array_equal((await self.engine.lifecycle.snapshot(session)).states["h_0"], self.h[:, i : i + 1])
                if at + length == SEQ_LEN or rng.random() < 0.01:
                    await self.engine.lifecycle.delete(session)
                    self.sessions[i] = await self.join()

    def submit(self, together: list[int], length: int) -> "asyncio.Future[Ticket]":
        answer: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
        ids, ats = zip(*(self.sessions[i] for i in together), strict=True)
        x = np.stack([self.x[at : at + length, i] for i, at in zip(together, ats, strict=True)], 1)
        self.engine.steps.submit(ids, {"x": x}, ats if self.rng.random() < 0.5 else [None] * len(ids), answer.set_result)
        return answer


@pytest.mark.parametrize("model", SCHEDULES)
async def test_results_are_bit_identical_over_random_schedules(config: Config, model: str) -> None:
    engine = Engine(config)
    await engine.start()
    try:
        assert not engine.models.get(model).sharing.variance
        player = Player(engine, model, np.random.default_rng(5))
        await player.rehearse()
        for _ in range(SCHEDULES[model]):
            await player.schedule()
        assert len(engine.models.get(model).launcher.batches) > 20, "batches of many sizes were run"
    finally:
        await engine.stop()
