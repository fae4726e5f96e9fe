"""The clients of a soak: each lives one session or a few, compares every answer to its tape to the bit, and cleans up."""

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import numpy as np
from statecell.oip import inference_pb2 as oip
from statecell.oip import inference_pb2_grpc as oip_grpc
from statecell.tensor import Array, pack, unpack
from statecell.v1 import inference_pb2 as pb
from statecell.v1 import inference_pb2_grpc

from bench.soak.tape import STEPS, Tape

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"


class Wrong(Exception):
    """An answer is not the one on the tape."""


class Clients:
    """`counts`: answers by kind that were right; every other outcome is an exception."""

    def __init__(self, address: str, channel: grpc.aio.Channel, model: str, tapes: list[Tape], rng: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self._address, self._model, self._tapes, self._rng = address, model, tapes, rng
        self._v1: Any = inference_pb2_grpc.InferenceServiceStub(channel)
        self._oip: Any = oip_grpc.GRPCInferenceServiceStub(channel)

    def kinds(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """One life of each kind of client."""
        return {
            "steps": self.steps,
            "chunks": self.chunks,
            "stream": self.stream,
            "streams cut off": self.cut_stream,
            "forks": self.forks,
            "snapshots": self.snapshots,
            "calls cancelled": self.cancelled,
            "sequences": self.sequence,
            "connections broken": self.broken,
        }

    # One session

    async def _create(self, **fields: Any) -> str:
        reply = await self._v1.CreateSession(pb.CreateSessionRequest(model=self._model, **fields))
        return str(reply.session.session_id)

    async def _delete(self, *sessions: str) -> None:
        for session in sessions:
            await self._v1.DeleteSession(pb.DeleteSessionRequest(session_id=session))

    def _request(self, session: str, x: Array, index: int) -> pb.StepRequest:
        return pb.StepRequest(session_id=session, inputs=[pack("x", x)], step_index=index)

    def _right(self, kind: str, got: Array, expected: Array) -> None:
        if not np.array_equal(got, expected):
            raise Wrong(f"{kind}: {got.ravel()[:3]}... came, expected {expected.ravel()[:3]}...")
        self.counts[kind] += 1

    async def _step(self, kind: str, session: str, tape: Tape, at: int, length: int = 1) -> None:
        reply = await self._v1.Step(self._request(session, tape.x[at : at + length], at))
        self._right(kind, unpack(reply.outputs[0]), tape.y[at : at + length])

    async def steps(self) -> None:
        """One by one; some are sent twice, as if their answers had been lost."""
        tape, session = self._rng.choice(self._tapes), await self._create()
        for at in range(STEPS):
            await self._step("steps", session, tape, at)
            if self._rng.random() < 0.1:
                await self._step("steps again", session, tape, at)
        await self._delete(session)

    async def chunks(self) -> None:
        """Several time steps a request, of all lengths; then the whole tape in a stateless call."""
        tape, session, at = self._rng.choice(self._tapes), await self._create(), 0
        while at < STEPS:
            length = min(self._rng.randint(1, 20), STEPS - at)
            await self._step("chunks", session, tape, at, length)
            at += length
        await self._delete(session)
        reply = await self._v1.Infer(pb.InferRequest(model=self._model, inputs=[pack("x", tape.x)]))
        self._right("infer", unpack(next(t for t in reply.outputs if t.name == "y")), tape.y)

    async def _messages(self, session: str, tape: Tape, stop: int) -> AsyncIterator[pb.StreamStepsRequest]:
        for at in range(stop):
            yield pb.StreamStepsRequest(session_ids=[session], inputs=[pack("x", tape.x[at : at + 1])], step_indexes=[at])

    async def stream(self) -> None:
        tape, session, at = self._rng.choice(self._tapes), await self._create(), 0
        async for reply in self._v1.StreamSteps(self._messages(session, tape, STEPS)):
            self._right("stream", unpack(reply.outputs[0]), tape.y[at : at + 1])
            at += 1
        if at != STEPS:
            raise Wrong(f"a stream of {STEPS} messages had {at} answers")
        await self._delete(session)

    async def cut_stream(self) -> None:
        """Cancelled in the middle; the session goes on from where it stands."""
        tape, session, at = self._rng.choice(self._tapes), await self._create(), 0
        call, enough = self._v1.StreamSteps(self._messages(session, tape, STEPS)), self._rng.randint(0, STEPS // 2)
        async for reply in call:
            self._right("stream", unpack(reply.outputs[0]), tape.y[at : at + 1])
            at += 1
            if at > enough:
                break
        call.cancel()
        await self._go_on("streams cut off", session, tape)

    async def cancelled(self) -> None:
        """Calls that nobody waits for any more: the step was made, or was not."""
        tape, session = self._rng.choice(self._tapes), await self._create()
        call = self._v1.Step(self._request(session, tape.x[:1], 0))
        await asyncio.sleep(self._rng.random() * 0.002)
        call.cancel()
        await self._go_on("calls cancelled", session, tape)

    async def _go_on(self, kind: str, session: str, tape: Tape) -> None:
        """To the tape's end, from wherever the session stands; a step of before may still be on its way."""
        while True:
            at = (await self._v1.GetState(pb.GetStateRequest(session_id=session))).snapshot.step_index
            if at >= STEPS:
                break
            try:
                await self._step(kind, session, tape, at)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:  # another step came before it
                    raise
        await self._delete(session)

    async def forks(self) -> None:
        tape, session = self._rng.choice(self._tapes), await self._create()
        middle = self._rng.randint(1, STEPS - 9)
        await self._step("forks", session, tape, 0, middle)
        reply = await self._v1.ForkSession(pb.ForkSessionRequest(session_id=session, count=self._rng.randint(1, 5)))
        family = [session, *(fork.session_id for fork in reply.sessions)]
        self._rng.shuffle(family)
        for at in range(middle, middle + 8):
            await asyncio.gather(*(self._step("forks", member, tape, at) for member in family))
        await self._delete(*family)

    async def snapshots(self) -> None:
        tape, session = self._rng.choice(self._tapes), await self._create()
        middle = self._rng.randint(1, STEPS - 5)
        await self._step("snapshots", session, tape, 0, middle)
        snapshot = (await self._v1.GetState(pb.GetStateRequest(session_id=session))).snapshot
        await self._delete(session)
        again = await self._create(snapshot=snapshot)
        for at in range(middle, middle + 4):
            await self._step("snapshots", again, tape, at)
        await self._v1.ResetSession(pb.ResetSessionRequest(session_id=again))
        await self._step("snapshots", again, tape, 0, 3)
        await self._delete(again)

    async def sequence(self) -> None:
        """Of the Open Inference Protocol."""
        tape, name = self._rng.choice(self._tapes), str(self._rng.getrandbits(60))
        for at in range(STEPS):
            request = oip.ModelInferRequest(model_name=self._model, raw_input_contents=[tape.x[at].tobytes()])
            request.inputs.add(name="x", datatype="FP32", shape=[1, *tape.x[at].shape])
            request.parameters["sequence_id"].string_param = name
            request.parameters["sequence_start"].bool_param = at == 0
            request.parameters["sequence_end"].bool_param = at == STEPS - 1
            reply = await self._oip.ModelInfer(request)
            raw = dict(zip([t.name for t in reply.outputs], reply.raw_output_contents, strict=True))["y"]
            self._right("sequences", np.frombuffer(raw, np.float32).reshape(tape.y[at].shape), tape.y[at])

    async def broken(self) -> None:
        """Connections that end in the middle of a word, some with a reset."""
        host, _, port = self._address.rpartition(":")
        said = PREFACE + SETTINGS + self._rng.randbytes(self._rng.randint(0, 60))
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(said[: self._rng.randint(0, len(said))])
        if self._rng.random() < 0.5:
            connected: socket.socket = writer.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await asyncio.sleep(self._rng.random() * 0.01)
        writer.transport.abort()
        self.counts["connections broken"] += 1
