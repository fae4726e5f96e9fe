"""What the server is done with goes by itself: the collector comes rarely, and what waits for it takes memory and time."""

import asyncio
import gc
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from statecell.oip import inference_pb2 as oip
from statecell.oip import inference_pb2_grpc as oip_grpc
from statecell.tensor import pack
from statecell.v1 import inference_pb2 as v1
from statecell.v1 import inference_pb2_grpc as v1_grpc
from statecell_server.app import App
from statecell_server.config import Config

ROUNDS = 30
X = np.ones((1, 1, 10), np.float32)

Traffic = Callable[[grpc.aio.Channel, int], Awaitable[None]]


def request(number: int, index: int, **parameters: bool) -> oip.ModelInferRequest:
    made = oip.ModelInferRequest(model_name="lstm", id=f"{number}_{index}", raw_input_contents=[X.tobytes()])
    made.inputs.add(name="x", datatype="FP32", shape=[1, 1, 10])
    made.parameters["sequence_id"].int64_param = number + 1
    for name, flag in parameters.items():
        made.parameters[name].bool_param = flag
    return made


async def session(channel: grpc.aio.Channel, durable: bool = False) -> tuple[v1_grpc.InferenceServiceStub, str]:
    stub = v1_grpc.InferenceServiceStub(channel)
    made = await stub.CreateSession(v1.CreateSessionRequest(model="lstm", durable=durable))
    return stub, made.session.session_id


async def steps(channel: grpc.aio.Channel, number: int) -> None:
    """Rows, longer ones, repeated ones, refused ones."""
    stub, name = await session(channel, bool(number % 2))
    x, long = pack("x", X), pack("x", np.ones((5, 1, 10), np.float32))
    await stub.Step(v1.StepRequest(session_id=name, inputs=[x]))
    for _ in range(2):
        await stub.Step(v1.StepRequest(session_id=name, inputs=[x], step_index=1))
    await stub.Step(v1.StepRequest(session_id=name, inputs=[long]))
    for index, tensor in ((99, x), (7, pack("x", np.ones((1, 1, 11), np.float32))), (7, pack("x", X * np.nan))):
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Step(v1.StepRequest(session_id=name, inputs=[tensor], step_index=index))
    await stub.DeleteSession(v1.DeleteSessionRequest(session_id=name))


async def streamed(channel: grpc.aio.Channel, number: int) -> None:
    stub, name = await session(channel, bool(number % 2))
    call = stub.StreamSteps()
    for index in range(6):
        seq_len = 1 + 4 * (index % 2)
        tensor = pack("x", np.ones((seq_len, 1, 10), np.float32))
        await call.write(v1.StreamStepsRequest(id=index, session_ids=[name], inputs=[tensor]))
        await call.read()
    await call.write(v1.StreamStepsRequest(id=9, session_ids=["nobody"], inputs=[pack("x", X)]))
    await call.read()
    if number % 3:
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    else:
        call.cancel()


async def sequences(channel: grpc.aio.Channel, number: int) -> None:
    stub = oip_grpc.GRPCInferenceServiceStub(channel)
    await stub.ModelInfer(request(number, 0, sequence_start=True, durable=bool(number % 2)))
    for index in (1, 2, 2, 3):
        await stub.ModelInfer(request(number, index))
    bad = request(number, 4)
    bad.inputs[0].shape[0] = 2
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.ModelInfer(bad)
    await stub.ModelInfer(request(number, 5, sequence_end=True))


async def streamed_sequences(channel: grpc.aio.Channel, number: int) -> None:
    call = oip_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer()
    for index in range(5):
        await call.write(request(number, index, sequence_start=index == 0, sequence_end=index == 4))
        await call.read()
    await call.write(request(number, 9))
    await call.read()
    if number % 2:
        call.cancel()
    else:
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def given_up(channel: grpc.aio.Channel, _: int) -> None:
    stub, name = await session(channel)
    call = stub.Step(v1.StepRequest(session_id=name, inputs=[pack("x", np.ones((400, 1, 10), np.float32))]))
    await asyncio.sleep(0.002)
    call.cancel()
    infer = oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request(1000, 0, sequence_start=True, sequence_replace=True))
    await asyncio.sleep(0)
    infer.cancel()


async def others(channel: grpc.aio.Channel, _: int) -> None:
    stub, name = await session(channel)
    await stub.Step(v1.StepRequest(session_id=name, inputs=[pack("x", X)]))
    await stub.ForkSession(v1.ForkSessionRequest(session_id=name, count=2))
    snapshot = (await stub.GetState(v1.GetStateRequest(session_id=name))).snapshot
    await stub.CreateSession(v1.CreateSessionRequest(model="lstm", snapshot=snapshot))
    await stub.ResetSession(v1.ResetSessionRequest(session_id=name))
    await stub.ListModels(v1.ListModelsRequest())
    await stub.Infer(v1.InferRequest(model="lstm", inputs=[pack("x", X)]))
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.GetState(v1.GetStateRequest(session_id="nobody"))


@pytest.fixture
async def channel(lstm_only: Path, capfd: pytest.CaptureFixture[str]) -> AsyncIterator[grpc.aio.Channel]:
    """To a server on this event loop."""
    app = App(Config(models=lstm_only, port=0, store="memory", drain_seconds=1))
    serving = asyncio.create_task(app.run())
    said = ""
    while "listening on" not in said:
        await asyncio.sleep(0.01)
        said += capfd.readouterr().out
    found = re.search(r"listening on (\S+)", said)
    assert found is not None
    async with grpc.aio.insecure_channel(found[1]) as opened:
        yield opened
    app._stop.set()
    await serving
    gc.unfreeze()
    gc.set_threshold(700)


@pytest.mark.parametrize("traffic", [steps, streamed, sequences, streamed_sequences, given_up, others])
async def test_no_circles_are_left(channel: grpc.aio.Channel, traffic: Traffic) -> None:
    await traffic(channel, 0)  # what is made once
    await asyncio.sleep(0.1)
    gc.collect()
    gc.disable()
    try:
        for number in range(1, 1 + ROUNDS):
            await traffic(channel, number)
        await asyncio.sleep(0.2)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        ours = Counter(
            type(found).__qualname__ for found in gc.garbage if type(found).__module__.startswith("statecell_server")
        )
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()

    assert not ours, "left to the collector"
