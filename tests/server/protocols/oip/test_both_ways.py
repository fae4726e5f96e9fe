"""Requests that begin and end sequences take the short way too, and nobody can tell which way one took.

The same random requests go to two engines, one of which has the general way alone: answers, errors and what is left are equal.
"""

import asyncio
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import status_pb2
from grpc_status import rpc_status
from statecell.oip import inference_pb2 as pb
from statecell_server.access.caller import ANYBODY
from statecell_server.config import Config
from statecell_server.durability.store import MemoryStore
from statecell_server.engine.engine import Engine
from statecell_server.errors import StatecellError
from statecell_server.protocols.oip.service import GRPCInferenceService
from statecell_server.protocols.status import write_status

ROUNDS = 250
IDS = range(1, 7)
SIZE = 10


class Call:
    """A unary call without a transport; as transport.exchange.Direct."""

    caller = ANYBODY

    def __init__(self) -> None:
        self.over: asyncio.Future[bytes | tuple[int, str]] = asyncio.get_running_loop().create_future()
        self.cancel: Callable[[], None] | None = None

    def reply(self, message: bytes) -> None:
        self.over.set_result(message)

    def refuse(self, status: grpc.Status) -> None:
        self.over.set_result((status.code.value[0], status.details))

    def serve(self) -> None:
        raise AssertionError("nobody asks for it")

    def when_cancelled(self, cancel: Callable[[], None]) -> None:
        self.cancel = cancel


class Side:
    """One engine, and how its requests go."""

    def __init__(self, models: Path, log: Path, *, short: bool, store: MemoryStore | None = None, **options: int) -> None:
        self._config = Config(models=models, sequence_roll=log, **options)  # type: ignore[arg-type]
        self._store = store
        self._short = short
        self.log = log
        self.taken = 0

    async def __aenter__(self) -> "Side":
        self.engine = Engine(self._config, self._store)
        self.service = GRPCInferenceService(self.engine, self._config)
        await self.engine.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.stop()
        self.service.close()

    async def ask(self, message: bytes, cancelled: int | None = None) -> pb.ModelInferResponse | tuple[int, str]:
        """The answer, or (code, text). `cancelled`: turns of the loop after which the caller has gone."""
        call = Call()
        if self._short and self.service.direct["ModelInfer"](message, call):
            self.taken += 1
            for _ in range(cancelled or 0):
                await asyncio.sleep(0)
            if cancelled is not None and call.cancel is not None:
                call.cancel()
            came = await call.over
            return came if isinstance(came, tuple) else pb.ModelInferResponse.FromString(came)
        try:
            return await self.service.infer(pb.ModelInferRequest.FromString(message), ANYBODY)
        except StatecellError as error:
            status: status_pb2.Status = write_status(error)
            return rpc_status.to_status(status).code.value[0], status.message

    def left(self) -> dict[str, object]:
        """What the engine holds between requests."""
        runner = self.engine.models.get("lstm")
        return {
            "sessions": sorted((s.id, s.step_index, s.batch, s.reply) for s in self.engine.sessions),
            "slots": runner.arena.used,
            "rows": runner.sessions.rows,
            "budget": self.engine.sessions.budget.used,
            "states": [runner.state(s)[0].tobytes() for s in sorted(self.engine.sessions, key=lambda s: s.id)],
            "log": self.log.read_text(),
        }


def drawn(draw: random.Random, key: int, last: dict[int, bytes]) -> bytes:
    """A request of this sequence: of any kind, and now and then one that was sent before."""
    if key in last and draw.random() < 0.15:
        return last[key]
    rows, steps = (2, 1) if draw.random() < 0.05 else (1, draw.choice([1, 1, 1, 1, 1, 2]))
    x = np.random.default_rng(draw.randrange(1 << 30)).standard_normal((steps, rows, SIZE), np.float32)
    if draw.random() < 0.05:
        x[0, 0, 3] = np.nan
    request = pb.ModelInferRequest(model_name="lstm", raw_input_contents=[x.tobytes()])
    request.id = draw.choice(["", f"r{draw.randrange(1000)}", f"r{draw.randrange(4)}"])
    request.model_version = draw.choice(["", "", "", "1", "7"])
    request.inputs.add(name=draw.choice(["x"] * 9 + ["z"]), datatype="FP32", shape=x.shape)
    if draw.random() < 0.5:
        request.parameters["sequence_id"].int64_param = key
    else:
        request.parameters["sequence_id"].string_param = str(key)
    for name, odds in (("sequence_start", 0.4), ("sequence_end", 0.3), ("sequence_replace", 0.1)):
        if draw.random() < odds:
            request.parameters[name].bool_param = True
        elif draw.random() < 0.3:
            request.parameters[name].bool_param = False
    last[key] = request.SerializeToString()
    return last[key]


@pytest.mark.parametrize("seed", range(3))
async def test_random_requests_are_answered_and_leave_the_same_by_both_ways(lstm_only: Path, tmp_path: Path, seed: int) -> None:
    """Several at once, each of another sequence."""
    draw, last = random.Random(seed), dict[int, bytes]()
    async with (
        Side(lstm_only, tmp_path / "short", short=True) as short,
        Side(lstm_only, tmp_path / "general", short=False) as general,
    ):
        for _ in range(ROUNDS):
            messages = [drawn(draw, key, last) for key in draw.sample(list(IDS), draw.randint(1, 4))]
            answers = [await asyncio.gather(*(side.ask(m) for m in messages)) for side in (short, general)]
            assert answers[0] == answers[1]
            first, second = short.left(), general.left()
            assert sorted(str(first.pop("log")).split()) == sorted(str(second.pop("log")).split())
            assert first == second
        assert short.taken > ROUNDS / 2


def begins(model: str = "lstm", key: int = 1, **flags: bool) -> bytes:
    """The first request of a sequence."""
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[np.ones((1, 1, SIZE), np.float32).tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 1, SIZE])
    request.parameters["sequence_id"].int64_param = key
    for name in ("sequence_start", *flags):
        request.parameters[name].bool_param = True
    return request.SerializeToString()


async def test_where_its_state_does_not_fit_a_sequence_does_not_begin(lstm_only: Path, tmp_path: Path) -> None:
    async with (
        Side(lstm_only, tmp_path / "short", short=True, state_memory=2048, spill_memory=0) as short,
        Side(lstm_only, tmp_path / "general", short=False, state_memory=2048, spill_memory=0) as general,
    ):
        refused = 0
        for key in range(1, 20):
            answers = [await side.ask(begins(key=key)) for side in (short, general)]
            assert answers[0] == answers[1]
            refused += isinstance(answers[0], tuple)
            assert {**short.left(), "log": 0} == {**general.left(), "log": 0}
        assert 0 < refused < 19


async def test_where_its_first_step_does_not_fit_a_sequence_does_not_begin(lstm_only: Path, tmp_path: Path) -> None:
    """Whatever there is room for: nothing, its session alone, its step as well, or its reply."""
    async with (
        Side(lstm_only, tmp_path / "short", short=True) as short,
        Side(lstm_only, tmp_path / "general", short=False) as general,
    ):
        refused = 0
        for room in range(0, 1200, 20):
            for side in (short, general):
                side.engine.sessions.budget.limit = side.engine.sessions.budget.used + room
            answers = [await side.ask(begins(key=room + 1)) for side in (short, general)]
            assert isinstance(answers[0], tuple) == isinstance(answers[1], tuple)
            refused += isinstance(answers[0], tuple)
            assert {**short.left(), "log": 0} == {**general.left(), "log": 0}
        assert 0 < refused < 60


async def test_a_sequence_begins_on_the_version_that_is_served_then(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "lstm", tmp_path / "models" / "lstm")
    async with Side(tmp_path / "models", tmp_path / "log", short=True) as side:
        message = begins(sequence_end=True)
        for version in ("1", "2"):
            for _ in range(2):
                answer = await side.ask(message)
                assert isinstance(answer, pb.ModelInferResponse)
                assert answer.model_version == version
            assert len(side.engine.sessions) == 0
            shutil.copytree(models / "lstm" / "1", tmp_path / "models" / "lstm" / "2", dirs_exist_ok=True)
            await side.engine.models.refresh(lambda _: 0)


async def test_a_model_that_has_no_sequences_begins_none(models: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "bidirectional").symlink_to(models / "bidirectional")
    for short in (True, False):
        async with Side(tmp_path / "models", tmp_path / "log", short=short) as side:
            answer = await side.ask(begins("bidirectional"))
            assert isinstance(answer, tuple)
            assert "has no sessions" in answer[1]
            assert len(side.engine.sessions) == side.taken == 0


async def test_a_durable_sequence_that_came_from_elsewhere_is_not_begun_again(lstm_only: Path, tmp_path: Path) -> None:
    """Its session is here, and nobody has asked for the sequence by its own name yet."""
    store = MemoryStore(ttl=60)
    async with (
        Side(lstm_only, tmp_path / "one", short=True, store=store) as one,
        Side(lstm_only, tmp_path / "other", short=True, store=store) as other,
    ):
        assert isinstance(await one.ask(begins(durable=True)), pb.ModelInferResponse)
        await other.engine.lifecycle.attach("durable-sequence/lstm/1")
        answer = await other.ask(begins())
        assert isinstance(answer, tuple)
        assert "is live at step_index 1" in answer[1]


async def test_a_first_request_whose_caller_has_gone_begins_its_sequence_or_does_not(lstm_only: Path, tmp_path: Path) -> None:
    seen = set()
    async with Side(lstm_only, tmp_path / "log", short=True) as side:
        for key in range(1, 40):
            answer = await side.ask(begins(key=key), cancelled=key % 4)
            there = side.engine.sessions.known(f"sequence/lstm/{key}")
            assert (there is None) == isinstance(answer, tuple)
            assert there is None or there.step_index == 1
            seen.add(there is None)
            again = await side.ask(begins(key=key))
            assert isinstance(again, tuple) == (there is not None)
        assert seen == {True, False}
        assert side.left()["slots"] == len(side.engine.sessions) == 39
