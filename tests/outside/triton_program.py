"""A program of a user of tritonclient, run by .venv-triton/bin/python: sequences of single steps, one after the other.

python triton_program.py ADDRESS KIND X.npy Y.npy, KIND being unary, stream, aio-unary, aio-stream, http or errors. X is float32
[sequences, seq_len, 10]; Y gets what the model "lstm" made of them, [sequences, seq_len, 20].
"""

import asyncio
import queue
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http


def requests(x: np.ndarray) -> Iterator[dict[str, Any]]:
    """The sequences' steps, interleaved; every other sequence is named by a string."""
    names = [f"sequence {i}" if i % 2 else i + 1 for i in range(len(x))]
    for t in range(x.shape[1]):
        for i, name in enumerate(names):
            tensor = triton.InferInput("x", [1, 1, x.shape[2]], "FP32")
            tensor.set_data_from_numpy(x[i, t].reshape(1, 1, -1))
            yield {
                "model_name": "lstm",
                "inputs": [tensor],
                "outputs": [triton.InferRequestedOutput("y")],
                "request_id": f"{i} {t}",
                "sequence_id": name,
                "sequence_start": t == 0,
                "sequence_end": t == x.shape[1] - 1,
            }


class Collected:
    """The answers by sequence and step, whatever their order."""

    def __init__(self, x: np.ndarray) -> None:
        self.y = np.full((len(x), x.shape[1], 20), np.nan, np.float32)

    def add(self, result: Any) -> None:
        i, t = map(int, result.get_response().id.split())
        self.y[i, t] = result.as_numpy("y").reshape(-1)


def unary(address: str, x: np.ndarray) -> np.ndarray:
    client, found = triton.InferenceServerClient(address), Collected(x)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("lstm")
    assert client.get_model_metadata("lstm").inputs[0].shape == [-1, -1, 10]
    assert client.get_model_config("lstm").config.sequence_batching.state[0].input_name == "h_0"
    assert "lstm" in {model.name for model in client.get_model_repository_index().models}
    for request in requests(x):
        found.add(client.infer(**request))
    assert client.get_inference_statistics("lstm").model_stats[0].inference_stats.success.count >= x.shape[0] * x.shape[1]
    return found.y


def http(address: str, x: np.ndarray) -> np.ndarray:
    """Over REST, tensors binary and as JSON by turns."""
    client, found = triton_http.InferenceServerClient(address), Collected(x)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("lstm")
    assert client.get_model_metadata("lstm")["inputs"][0]["shape"] == [-1, -1, 10]
    assert client.get_model_config("lstm")["sequence_batching"]["state"][0]["input_name"] == "h_0"
    assert "lstm" in {model["name"] for model in client.get_model_repository_index()}
    assert client.get_trace_settings("lstm")["trace_level"] == ["OFF"]
    assert client.get_log_settings()["log_info"] is True
    for number, request in enumerate(requests(x)):
        tensor = triton_http.InferInput("x", [1, 1, x.shape[2]], "FP32")
        i, t = map(int, request["request_id"].split())
        tensor.set_data_from_numpy(x[i, t].reshape(1, 1, -1), binary_data=number % 2 == 0)
        outputs = [triton_http.InferRequestedOutput("y", binary_data=number % 3 == 0)]
        found.y[i, t] = client.infer(**{**request, "inputs": [tensor], "outputs": outputs}).as_numpy("y").reshape(-1)
    return found.y


def stream(address: str, x: np.ndarray) -> np.ndarray:
    client, found = triton.InferenceServerClient(address), Collected(x)
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for request in requests(x):
        client.async_stream_infer(**request)
    for _ in range(x.shape[0] * x.shape[1]):
        result, error = answers.get(timeout=300)
        assert error is None, error
        assert result.get_response().parameters["triton_final_response"].bool_param
        found.add(result)
    client.stop_stream()
    return found.y


async def aio_unary(address: str, x: np.ndarray) -> np.ndarray:
    found = Collected(x)
    async with triton_aio.InferenceServerClient(address) as client:
        assert await client.is_model_ready("lstm")
        for request in requests(x):
            found.add(await client.infer(**request))
    return found.y


async def aio_stream(address: str, x: np.ndarray) -> np.ndarray:
    found = Collected(x)

    async def send() -> AsyncIterator[dict[str, Any]]:
        for request in requests(x):
            yield request

    async with triton_aio.InferenceServerClient(address) as client:
        async for result, error in client.stream_infer(send()):
            assert error is None, error
            found.add(result)
    return found.y


def errors(address: str, x: np.ndarray) -> np.ndarray:
    """What a user sees: the status and the message, and in a stream the message alone."""
    client = triton.InferenceServerClient(address)
    first = next(requests(x))
    try:
        client.infer(**{**first, "sequence_id": 77, "sequence_start": False})
    except triton.InferenceServerException as error:
        print(error.status(), error.message(), sep=": ")
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer(**{**first, "sequence_id": 78, "sequence_start": False})
    print(answers.get(timeout=300)[1].message())
    client.async_stream_infer(**first)
    assert answers.get(timeout=300)[1] is None, "the stream goes on"
    client.stop_stream()
    return x


if __name__ == "__main__":
    _, address, kind, source, target = sys.argv
    x = np.load(source)
    if kind in ("aio-unary", "aio-stream"):
        np.save(target, asyncio.run({"aio-unary": aio_unary, "aio-stream": aio_stream}[kind](address, x)))
    else:
        np.save(target, {"unary": unary, "stream": stream, "http": http, "errors": errors}[kind](address, x))
