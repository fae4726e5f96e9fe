"""A thin caller over the stubs of the Open Inference Protocol, so that the tests see the wire and nothing of a client."""

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from statecell.oip import inference_pb2 as pb
from statecell.oip import inference_pb2_grpc
from statecell.tensor import Array

DATATYPES = {"float32": "FP32", "int64": "INT64"}
DTYPES = {"FP32": "float32", "INT64": "int64"}


def request(
    model: str, tensors: Mapping[str, Array], *, outputs: Sequence[str] = (), request_id: str = "", **parameters: Any
) -> pb.ModelInferRequest:
    """Raw contents; the parameters by their Python types."""
    message = pb.ModelInferRequest(model_name=model, id=request_id, raw_input_contents=[a.tobytes() for a in tensors.values()])
    for name, array in tensors.items():
        message.inputs.add(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
    for name in outputs:
        message.outputs.add(name=name)
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
        setattr(message.parameters[name], kind, value)
    return message


def arrays(answer: pb.ModelInferResponse) -> dict[str, Array]:
    """By name."""
    return {
        tensor.name: np.frombuffer(raw, DTYPES[tensor.datatype]).reshape(tuple(tensor.shape))
        for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }


def text_of(error: grpc.RpcError) -> str:
    """What the caller is told."""
    return str(error.details())


class OipCaller:
    """`stub` for every rpc, and steps with arrays in and out."""

    def __init__(self, address: str, channel: grpc.Channel | None = None) -> None:
        self.channel = channel or grpc.insecure_channel(address)
        self.stub = inference_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def infer(self, model: str, x: Array, **options: Any) -> Array:
        """`y` of one call."""
        return arrays(self.stub.ModelInfer(request(model, {"x": x}, **options)))["y"]

    def stream(self, messages: Sequence[pb.ModelInferRequest]) -> list[pb.ModelStreamInferResponse]:
        return list(self.stub.ModelStreamInfer(iter(messages)))
