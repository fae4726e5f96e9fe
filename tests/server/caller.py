"""A thin caller over the generated stubs, so that the server's tests see the wire and nothing of the client."""

from collections.abc import Sequence

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from statecell.tensor import Array, pack, unpack
from statecell.v1 import inference_pb2 as pb
from statecell.v1 import inference_pb2_grpc


class Caller:
    """The rpcs with arrays in and out."""

    def __init__(self, address: str, *options: tuple[str, int]) -> None:
        self.channel = grpc.insecure_channel(address, options=options)
        self.stub = inference_pb2_grpc.InferenceServiceStub(self.channel)

    def create(self, model: str, batch: int = 1, *, durable: bool = False, **state: Array) -> str:
        tensors = [pack(name, array) for name, array in state.items()]
        request = pb.CreateSessionRequest(model=model, batch=batch, initial_state=tensors, durable=durable)
        return str(self.stub.CreateSession(request).session.session_id)

    def step(self, session: str, x: Array, step_index: int | None = None) -> Array:
        reply = self.stub.Step(pb.StepRequest(session_id=session, inputs=[pack("x", x)], step_index=step_index))
        return unpack(reply.outputs[0])

    def infer(self, model: str, x: Array, **state: Array) -> dict[str, Array]:
        tensors = [pack("x", x), *(pack(name, array) for name, array in state.items())]
        reply = self.stub.Infer(pb.InferRequest(model=model, inputs=tensors))
        return {tensor.name: unpack(tensor) for tensor in reply.outputs}

    def state(self, session: str) -> dict[str, Array]:
        snapshot = self.stub.GetState(pb.GetStateRequest(session_id=session)).snapshot
        return {tensor.name: unpack(tensor) for tensor in snapshot.states}

    def index(self, session: str) -> int:
        return int(self.stub.GetState(pb.GetStateRequest(session_id=session)).snapshot.step_index)

    def stream(self, messages: Sequence[pb.StreamStepsRequest]) -> list[pb.StreamStepsResponse]:
        return list(self.stub.StreamSteps(iter(messages)))


def reason_of(error: grpc.RpcError) -> str:
    """ErrorInfo's reason."""
    return str(info_of(error).reason)


def info_of(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    assert status is not None, f"no rich error in {error}"
    assert status.details[0].Unpack(info)
    return info
