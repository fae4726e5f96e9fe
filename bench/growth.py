"""Many open sessions: opened in a burst, stepping beside idle ones, memory, and the size of the arena."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import grpc
from statecell.v1 import inference_pb2 as pb
from statecell.v1 import inference_pb2_grpc

from bench.engine import SLOTS
from bench.load import Load, observe
from bench.messages import STREAM, streamed, x
from bench.process import ProcessError, listening, module, output
from bench.results import Measurement, Values
from bench.serving import statecell
from bench.setup import SHAPES, Setup, repository

MODEL = "1x128"
LAYERS, SIZE = SHAPES[MODEL]
STATE_BYTES = 2 * LAYERS * SIZE * 4
OPEN = (10, 1_000, 10_000)
STEPPING = 10
"""Sessions that go on stepping while all are open."""
CALM = 50
"""Calls in flight where no burst is wanted."""


@contextmanager
def part(setup: Setup) -> Iterator[list[Measurement]]:
    opened = OPEN[:2] if setup.quick else OPEN
    yield [
        *(Measurement(f"growth/open {count}", partial(_burst, count, setup)) for count in opened),
        Measurement("growth/memory", partial(_memory, opened[-1], setup)),
        *([] if setup.quick else [Measurement("growth/arena", partial(_arena, setup))]),
    ]


async def _open(address: str, count: int, at_once: int) -> tuple[list[str], list[str]]:
    """(ids of new sessions, why others were not opened)."""
    room = asyncio.Semaphore(at_once)
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)

        async def create() -> str:
            async with room:
                reply = await stub.CreateSession(pb.CreateSessionRequest(model=MODEL))
                return str(reply.session.session_id)

        made = await asyncio.gather(*(create() for _ in range(count)), return_exceptions=True)
    return [m for m in made if isinstance(m, str)], [str(m) for m in made if not isinstance(m, str)]


def _burst(count: int, setup: Setup) -> Values:
    """`count` sessions created at once; a stream for each opened at once, and a step taken on it; then STEPPING go on."""
    with listening(statecell(MODEL), setup.server_core) as server:
        ids, refused = asyncio.run(_open(server.address, count, at_once=count))
        inputs = x(1, 1, SIZE)
        messages = [streamed([session_id], inputs) for session_id in ids]
        values = observe(Load(STREAM, messages, 1, inputs.nbytes, active=STEPPING), server, setup)
    return {**values, "refused": len(refused)}


def _memory(count: int, setup: Setup) -> Values:
    """Resident bytes of a session that has stepped once and is idle, beyond its state.

    The first lot's burst of steps makes the process as large as it needs to be for bursts; it is given beside the second's.
    """
    with listening(statecell(MODEL), setup.server_core) as server, grpc.insecure_channel(server.address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        inputs = x(1, 1, SIZE)

        def step(ids: list[str]) -> None:
            for reply in stub.StreamSteps(pb.StreamStepsRequest.FromString(streamed([i], inputs).data) for i in ids):
                if reply.errors:
                    raise ProcessError(f"a step failed: {reply.errors[0]}")

        def opened(more: int) -> int:
            ids, refused = asyncio.run(_open(server.address, more, CALM))
            if refused:
                raise ProcessError(f"{len(refused)} sessions were not opened: {refused[0]}")
            step(ids)
            return server.memory()

        sizes = [opened(100), opened(count), opened(count)]
    first, second = ((after - before) / count for before, after in pairwise(sizes))
    return {"bytes": second, "beyond_state": second - STATE_BYTES, "first_beyond_state": first - STATE_BYTES}


def _arena(setup: Setup) -> Values:
    """What a step costs with few and with many slots in the arena."""
    command = module("bench.engine", "arena", repository(MODEL), MODEL, SIZE, setup.seconds)
    took = json.loads(output(command, setup.server_core)[0])
    return {**{f"{slots}_us": took[str(slots)] for slots in SLOTS}, "ratio": took[str(SLOTS[1])] / took[str(SLOTS[0])]}
