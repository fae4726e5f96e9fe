"""A program of a user of KServe's REST client, run by .venv-kserve/bin/python: a sequence of single steps.

python kserve_program.py HTTP-ADDRESS X.npy Y.npy. X is float32 [seq_len, 10]; Y gets what the model "lstm" made of it,
[seq_len, 20].
"""

import asyncio
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def main(address: str, x: np.ndarray) -> np.ndarray:
    client, base = InferenceRESTClient(RESTConfig(protocol="v2", retries=0)), f"http://{address}"
    assert await client.is_server_live(base)
    assert await client.is_server_ready(base)
    assert await client.is_model_ready(base, "lstm")
    found = []
    for t, row in enumerate(x):
        tensor = InferInput("x", [1, 1, len(row)], "FP32")
        tensor.set_data_from_numpy(row.reshape(1, 1, -1), binary_data=t % 2 == 0)
        flags = {"sequence_id": "kserve", "sequence_start": t == 0, "sequence_end": t == len(x) - 1}
        request = InferRequest(model_name="lstm", infer_inputs=[tensor], parameters=flags)
        answer = await client.infer(base, request, model_name="lstm")
        found.append(answer.outputs[0].as_numpy().reshape(-1))
    return np.stack(found)


if __name__ == "__main__":
    np.save(sys.argv[3], asyncio.run(main(sys.argv[1], np.load(sys.argv[2]))))
