"""What a step costs behind the transport: parse, translate, run, serialise, without gRPC.

`python -m bench.oip_inside REPOSITORY MODEL SIZE SECONDS` prints {sequences: microseconds of CPU a step}.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import numpy as np
from statecell.oip import inference_pb2 as pb
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


async def cost(service: GRPCInferenceService, sequences: list[list[bytes]], seconds: float) -> float:
    """All of them at once, again and again."""
    steps, until = 0, time.perf_counter() + seconds

    async def client(messages: list[bytes]) -> None:
        nonlocal steps
        while time.perf_counter() < until:
            for message in messages:
                (await service.answer(pb.ModelInferRequest.FromString(message))).SerializeToString()
            steps += len(messages)

    began = time.process_time()
    await asyncio.gather(*(client(messages) for messages in sequences))
    return 1e6 * (time.process_time() - began) / steps


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
