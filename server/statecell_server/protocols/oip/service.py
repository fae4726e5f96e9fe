"""The servicer of the Open Inference Protocol: Answers on gRPC."""

from collections.abc import AsyncIterator

from grpc_status import rpc_status
from statecell.oip import inference_pb2 as pb
from statecell.oip import inference_pb2_grpc

from statecell_server.access.caller import Caller
from statecell_server.config import Config
from statecell_server.engine.engine import Engine
from statecell_server.errors import Draining, StatecellError
from statecell_server.protocols.call import Context, Streams, end, unary
from statecell_server.protocols.oip.answers import Answers
from statecell_server.protocols.oip.request import session_id
from statecell_server.protocols.oip.rows import Over, Row, Rows
from statecell_server.protocols.oip.stream import Infer, InferStream
from statecell_server.protocols.oip.wire import write_streamed_error
from statecell_server.protocols.status import write_status
from statecell_server.sessions.owner import owner
from statecell_server.transport.exchange import Direct
from statecell_server.transport.grpcio_server import caller_of


class GRPCInferenceService(Answers, inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Translates between inference.GRPCInferenceService and the Engine."""

    def __init__(self, engine: Engine, config: Config) -> None:
        """Raises ConfigError."""
        super().__init__(engine, config)
        self._rows = Rows(engine, self.sequences, lambda key: owner(session_id(key), config.workers) == config.worker)
        self.direct = {"ModelInfer": self._infer_row}
        self._streams = Streams()

    @property
    def stream_parts(self) -> tuple[Infer, Rows, Over]:
        """What an InferStream is made of."""
        return self._infer_streamed, self._rows, self._count

    ServerLive = unary(Answers.live)
    ServerReady = unary(Answers.ready)
    ServerMetadata = unary(Answers.metadata)
    ModelReady = unary(Answers.model_ready)
    ModelMetadata = unary(Answers.model_metadata)
    ModelConfig = unary(Answers.model_config)
    ModelInfer = unary(Answers.infer)
    ModelStatistics = unary(Answers.statistics)
    RepositoryIndex = unary(Answers.index)
    RepositoryModelLoad = unary(Answers.load)
    RepositoryModelUnload = unary(Answers.unload)
    TraceSetting = unary(Answers.trace_setting)
    LogSettings = unary(Answers.log_settings)

    async def ModelStreamInfer(self, _: AsyncIterator[pb.ModelInferRequest], context: Context) -> None:
        await self._streams.carry(context, InferStream(*self.stream_parts, caller_of(context)))
        if self._engine.draining:
            error = Draining("the server is about to stop; what was answered is done, send the rest to another")
            await end(context, error)

    def _infer_row(self, message: bytes, call: Direct) -> bool:
        """A ModelInfer call that is a row takes the short way."""

        def over(row: Row, answer: bytes | StatecellError) -> None:
            self._count(row, answer)
            if isinstance(answer, bytes):
                call.reply(answer)
            else:
                call.refuse(rpc_status.to_status(write_status(answer)))

        row = self._rows.begin(message, over, call.caller)
        if row is not None:
            call.when_cancelled(row.cancel)
        return row is not None

    def _count(self, row: Row, answer: bytes | StatecellError) -> None:
        count = self.counts[row.home.name, row.home.version]
        if isinstance(answer, bytes):
            count.succeeded += 1
            count.succeeded_ns += row.ns
        else:
            count.failed += 1
            count.failed_ns += row.ns

    async def _infer_streamed(self, request: pb.ModelInferRequest, caller: Caller) -> pb.ModelStreamInferResponse:
        response = pb.ModelStreamInferResponse()
        try:
            await self.infer(request, caller, response.infer_response)
        except StatecellError as error:
            write_streamed_error(request, error, response)
        response.infer_response.parameters["triton_final_response"].bool_param = True  # every request has one answer
        return response

    def drain(self) -> None:
        """Streams answer what they have read, and end."""
        self._streams.drain()
