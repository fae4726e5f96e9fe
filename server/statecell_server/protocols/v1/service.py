"""The statecell.v1 servicer: unpack, one await, pack."""

from collections.abc import AsyncIterator

from statecell.v1 import inference_pb2 as pb
from statecell.v1 import inference_pb2_grpc

from statecell_server.engine.engine import Engine
from statecell_server.errors import Draining
from statecell_server.protocols.call import Context, Streams, end, unary
from statecell_server.protocols.v1.rows import Rows
from statecell_server.protocols.v1.stream import StepStream
from statecell_server.protocols.v1.wire import (
    read_snapshot,
    read_tensors,
    write_model,
    write_session,
    write_snapshot,
    write_tensors,
)


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """Translates between statecell.v1 and the Engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._rows = Rows(engine)
        self.direct = {"Step": self._rows.step}
        self._streams = Streams()

    @unary
    async def ListModels(self, _: pb.ListModelsRequest) -> pb.ListModelsResponse:
        absent = [pb.UnavailableModel(**missing._asdict()) for missing in await self._engine.models.absent()]
        return pb.ListModelsResponse(models=[write_model(runner) for runner in self._engine.models], unavailable=absent)

    @unary
    async def GetModel(self, request: pb.GetModelRequest) -> pb.GetModelResponse:
        runner = self._engine.models.get(request.name, request.version)
        return pb.GetModelResponse(model=write_model(runner))

    @unary
    async def Infer(self, request: pb.InferRequest) -> pb.InferResponse:
        outputs = await self._engine.steps.infer(request.model, request.version, read_tensors(request.inputs))
        reply = pb.InferResponse()
        write_tensors(outputs.items(), reply.outputs)
        return reply

    @unary
    async def CreateSession(self, request: pb.CreateSessionRequest) -> pb.CreateSessionResponse:
        snapshot = request.snapshot if request.HasField("snapshot") else None
        session = await self._engine.lifecycle.create(
            request.model,
            request.version,
            batch=request.batch,
            state=read_tensors(request.initial_state),
            snapshot=read_snapshot(snapshot) if snapshot else None,
            checksum=snapshot.checksum if snapshot else b"",
            durable=request.durable,
        )
        return pb.CreateSessionResponse(session=write_session(session))

    @unary
    async def Step(self, request: pb.StepRequest) -> pb.StepResponse:
        index = request.step_index if request.HasField("step_index") else None
        outputs, index = await self._engine.steps.step(request.session_id, read_tensors(request.inputs), index)
        reply = pb.StepResponse(step_index=index)
        write_tensors(outputs.items(), reply.outputs)
        return reply

    def _stream(self) -> StepStream:
        return StepStream(self._engine, self._rows)

    async def StreamSteps(self, _: AsyncIterator[pb.StreamStepsRequest], context: Context) -> None:
        stream = self._stream()
        if not self._engine.draining:
            await self._streams.carry(context, stream)
        if self._engine.draining:
            count = stream.received
            error = Draining(
                f"the server is about to stop; it has answered the first {count} messages, send the rest to another",
                answered=count,
            )
            await end(context, error)

    @unary
    async def GetState(self, request: pb.GetStateRequest) -> pb.GetStateResponse:
        return pb.GetStateResponse(snapshot=write_snapshot(await self._engine.lifecycle.snapshot(request.session_id)))

    @unary
    async def ForkSession(self, request: pb.ForkSessionRequest) -> pb.ForkSessionResponse:
        forks = await self._engine.lifecycle.fork(request.session_id, request.count)
        return pb.ForkSessionResponse(sessions=[write_session(fork) for fork in forks])

    @unary
    async def ResetSession(self, request: pb.ResetSessionRequest) -> pb.ResetSessionResponse:
        return pb.ResetSessionResponse(session=write_session(await self._engine.lifecycle.reset(request.session_id)))

    @unary
    async def DeleteSession(self, request: pb.DeleteSessionRequest) -> pb.DeleteSessionResponse:
        await self._engine.lifecycle.delete(request.session_id)
        return pb.DeleteSessionResponse()

    @unary
    async def ListSessions(self, request: pb.ListSessionsRequest) -> pb.ListSessionsResponse:
        sessions, token = self._engine.sessions.page(request.model, request.page_size, request.page_token)
        return pb.ListSessionsResponse(sessions=[write_session(s) for s in sessions], next_page_token=token)

    def drain(self) -> None:
        """Streams answer what they have read, and end."""
        self._streams.drain()
