"""What a step costs behind the transport: parse, translate, run, serialise, without gRPC.

`python -m bench.oip_inside REPOSITORY MODEL SIZE SECONDS` prints {sequences: microseconds of CPU a step}.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
from statecell.oip import inference_pb2 as pb
from statecell_server.access.caller import ANYBODY
from statecell_server.config import Config
from statecell_server.engine.engine import Engine
from statecell_server.protocols.oip.service import GRPCInferenceService

SEQUENCES = (1, 16, 64)
SEQUENCE_LENGTH = 20


def requests(model: str, size: int, number: int) -> list[bytes]:
    """One sequence, as perf_analyzer sends it."""
    x = np.zeros(size, np.float32).tobytes()
    made = []
    for t in range(SEQUENCE_LENGTH):
        request = pb.ModelInferRequest(model_name=model, id=f"{number}_{t}", raw_input_contents=[x])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 1, size])
        request.parameters["sequence_id"].int64_param = number
        request.parameters["sequence_start"].bool_param = t == 0
        request.parameters["sequence_end"].bool_param = t == SEQUENCE_LENGTH - 1
        made.append(request.SerializeToString())
    return made


class Client:
    """Sends a sequence's requests one after the other, each when the last one is answered, again and again."""

    caller = ANYBODY

    def __init__(self, service: GRPCInferenceService, messages: list[bytes], until: float, over: asyncio.Future[None]) -> None:
        self.steps = 0
        self._service, self._messages, self._until, self.over = service, messages, until, over
        self._loop = asyncio.get_running_loop()

    def send(self) -> None:
        """The next one; by the servicer's coroutine, if it takes that."""
        if not self.steps % len(self._messages) and time.perf_counter() >= self._until:
            self.over.set_result(None)
        elif not self._service.direct["ModelInfer"](self._messages[self.steps % len(self._messages)], self):
            self.serve()

    def serve(self) -> None:
        """As transport.exchange.Direct."""
        request = pb.ModelInferRequest.FromString(self._messages[self.steps % len(self._messages)])
        task = self._loop.create_task(self._service.infer(request, self.caller))
        task.add_done_callback(lambda task: self.reply(task.result().SerializeToString()))

    def reply(self, _: bytes) -> None:
        """As transport.exchange.Direct."""
        self.steps += 1
        self._loop.call_soon(self.send)

    def refuse(self, status: grpc.Status) -> None:
        """As transport.exchange.Direct."""
        raise AssertionError(status.details)

    def when_cancelled(self, cancel: Callable[[], None]) -> None:
        """As transport.exchange.Direct."""


async def cost(service: GRPCInferenceService, sequences: list[list[bytes]], seconds: float) -> float:
    """All of them at once, again and again."""
    until = time.perf_counter() + seconds
    loop = asyncio.get_running_loop()
    clients = [Client(service, messages, until, loop.create_future()) for messages in sequences]
    began = time.process_time()
    for client in clients:
        client.send()
    await asyncio.gather(*(client.over for client in clients))
    return 1e6 * (time.process_time() - began) / sum(client.steps for client in clients)


async def main(repository: Path, model: str, size: int, seconds: float) -> dict[int, float]:
    config = Config(models=repository)
    engine = Engine(config)
    service = GRPCInferenceService(engine, config)
    await engine.start()
    every = [requests(model, size, number + 1) for number in range(max(SEQUENCES))]
    costs = {}
    for count in SEQUENCES:
        await cost(service, every[:count], seconds / 3)
        costs[count] = await cost(service, every[:count], seconds)
    await engine.stop()
    return costs


if __name__ == "__main__":
    _, folder, name, width, duration = sys.argv
    print(json.dumps(asyncio.run(main(Path(folder), name, int(width), float(duration)))))
