"""The statecell.v1 servicer: unpack, one await, pack."""

from collections.abc import AsyncIterator

from statecell.v1 import inference_pb2 as pb
from statecell.v1 import inference_pb2_grpc

from statecell_server.access.caller import Caller
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
from statecell_server.transport.grpcio_server import caller_of


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """Translates between statecell.v1 and the Engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._rows = Rows(engine)
        self.direct = {"Step": self._rows.step}
        self._streams = Streams()

    @unary
    async def ListModels(self, _: pb.ListModelsRequest, _caller: Caller) -> pb.ListModelsResponse:
        absent = [pb.UnavailableModel(**missing._asdict()) for missing in await self._engine.models.absent()]
        return pb.ListModelsResponse(models=[write_model(runner) for runner in self._engine.models], unavailable=absent)

    @unary
    async def GetModel(self, request: pb.GetModelRequest, _caller: Caller) -> pb.GetModelResponse:
        runner = self._engine.models.get(request.name, request.version)
        return pb.GetModelResponse(model=write_model(runner))

    @unary
    async def Infer(self, request: pb.InferRequest, _caller: Caller) -> pb.InferResponse:
        outputs = await self._engine.steps.infer(request.model, request.version, read_tensors(request.inputs))
        reply = pb.InferResponse()
        write_tensors(outputs.items(), reply.outputs)
        return reply

    @unary
    async def CreateSession(self, request: pb.CreateSessionRequest, caller: Caller) -> pb.CreateSessionResponse:
        snapshot = request.snapshot if request.HasField("snapshot") else None
        session = await self._engine.lifecycle.create(
            request.model,
            request.version,
            batch=request.batch,
            state=read_tensors(request.initial_state),
            snapshot=read_snapshot(snapshot) if snapshot else None,
            checksum=snapshot.checksum if snapshot else b"",
            durable=request.durable,
            owner=caller,
        )
        return pb.CreateSessionResponse(session=write_session(session))

    @unary
    async def Step(self, request: pb.StepRequest, caller: Caller) -> pb.StepResponse:
        index = request.step_index if request.HasField("step_index") else None
        session_id = self._own(request.session_id, caller)
        outputs, index = await self._engine.steps.step(session_id, read_tensors(request.inputs), index)
        reply = pb.StepResponse(step_index=index)
        write_tensors(outputs.items(), reply.outputs)
        return reply

    def _stream(self, caller: Caller) -> StepStream:
        return StepStream(self._engine, self._rows, caller)

    async def StreamSteps(self, _: AsyncIterator[pb.StreamStepsRequest], context: Context) -> None:
        stream = self._stream(caller_of(context))
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
    async def GetState(self, request: pb.GetStateRequest, caller: Caller) -> pb.GetStateResponse:
        snapshot = await self._engine.lifecycle.snapshot(self._own(request.session_id, caller))
        return pb.GetStateResponse(snapshot=write_snapshot(snapshot, self._engine.lifecycle.state_key))

    @unary
    async def ForkSession(self, request: pb.ForkSessionRequest, caller: Caller) -> pb.ForkSessionResponse:
        forks = await self._engine.lifecycle.fork(self._own(request.session_id, caller), request.count)
        return pb.ForkSessionResponse(sessions=[write_session(fork) for fork in forks])

    @unary
    async def ResetSession(self, request: pb.ResetSessionRequest, caller: Caller) -> pb.ResetSessionResponse:
        session = await self._engine.lifecycle.reset(self._own(request.session_id, caller))
        return pb.ResetSessionResponse(session=write_session(session))

    @unary
    async def DeleteSession(self, request: pb.DeleteSessionRequest, caller: Caller) -> pb.DeleteSessionResponse:
        await self._engine.lifecycle.delete(self._own(request.session_id, caller))
        return pb.DeleteSessionResponse()

    @unary
    async def ListSessions(self, request: pb.ListSessionsRequest, caller: Caller) -> pb.ListSessionsResponse:
        sessions, token = self._engine.sessions.page(
            request.model, request.page_size, request.page_token, None if caller.admin else caller
        )
        return pb.ListSessionsResponse(sessions=[write_session(s) for s in sessions], next_page_token=token)

    def _own(self, session_id: str, caller: Caller) -> str:
        """The id of a session that may be the caller's. Raises SessionNotFound, SessionLost, as where there is none."""
        if not caller.owns(session_id):
            raise self._engine.sessions.foreign(session_id)
        return session_id

    def drain(self) -> None:
        """Streams answer what they have read, and end."""
        self._streams.drain()
