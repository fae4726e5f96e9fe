"""The servicer of the Open Inference Protocol: unpack, one await, pack."""

import time
from collections import defaultdict
from collections.abc import AsyncIterator

from grpc_status import rpc_status
from statecell.oip import inference_pb2 as pb
from statecell.oip import inference_pb2_grpc

from statecell_server import __version__
from statecell_server.batching.inputs import check_outputs
from statecell_server.config import Config, ConfigError
from statecell_server.engine.engine import Engine
from statecell_server.errors import Draining, InvalidRequest, ModelNotFound, StatecellError
from statecell_server.protocols.call import Context, Streams, end, unary
from statecell_server.protocols.oip.model import write_config, write_metadata, write_statistics
from statecell_server.protocols.oip.request import Answer
from statecell_server.protocols.oip.rows import Row, Rows
from statecell_server.protocols.oip.sequence_log import DamagedLog, SequenceLog
from statecell_server.protocols.oip.sequences import Sequences
from statecell_server.protocols.oip.stream import InferStream
from statecell_server.protocols.oip.wire import (
    read_inputs,
    read_outputs,
    read_request,
    write_answer,
    write_streamed_error,
)
from statecell_server.protocols.status import write_status
from statecell_server.transport.exchange import Direct

EXTENSIONS = (
    "sequence",
    "sequence(string_id)",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)
"""Triton's names of what is here beyond the protocol itself."""


class Count:
    """Requests for one model, and the nanoseconds from their arrival to their answers."""

    __slots__ = ("failed", "failed_ns", "succeeded", "succeeded_ns")

    def __init__(self) -> None:
        self.succeeded = self.succeeded_ns = self.failed = self.failed_ns = 0

    @property
    def success(self) -> tuple[int, int]:
        """(requests, nanoseconds)"""
        return self.succeeded, self.succeeded_ns

    @property
    def fail(self) -> tuple[int, int]:
        """(requests, nanoseconds)"""
        return self.failed, self.failed_ns


class GRPCInferenceService(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Translates between inference.GRPCInferenceService and the Engine."""

    def __init__(self, engine: Engine, config: Config) -> None:
        """Raises ConfigError."""
        self._engine = engine
        self._config = config
        try:
            self._log = SequenceLog(config.sequence_roll, config.session_ttl)
        except OSError as error:
            raise ConfigError(f"--sequence-roll {config.sequence_roll} cannot be written: {error.strerror}") from error
        except DamagedLog as error:
            raise ConfigError(
                f"--sequence-roll {config.sequence_roll} is damaged: {error}; move it away to begin without it"
            ) from error
        self._sequences = Sequences(engine, self._log)
        self._rows = Rows(engine, self._sequences)
        self.direct = {"ModelInfer": self._infer_row}
        self._counts: defaultdict[tuple[str, str], Count] = defaultdict(Count)
        self._streams = Streams()

    @unary
    async def ServerLive(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    @unary
    async def ServerReady(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=not self._engine.draining)

    @unary
    async def ModelReady(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        try:
            self._engine.models.get(request.name, request.version)
        except ModelNotFound:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not self._engine.draining)

    @unary
    async def ServerMetadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="statecell", version=__version__, extensions=EXTENSIONS)

    @unary
    async def ModelMetadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        runner = self._engine.models.get(request.name, request.version)
        return write_metadata(runner, [r.version for r in self._engine.models if r.name == runner.name])

    @unary
    async def ModelConfig(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        runner = self._engine.models.get(request.name, request.version)
        return pb.ModelConfigResponse(config=write_config(runner, self._config.max_batch, self._config.session_ttl))

    async def ModelStreamInfer(self, _: AsyncIterator[pb.ModelInferRequest], context: Context) -> None:
        await self._streams.carry(context, InferStream(self._infer_streamed, self._rows, self._count))
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

        row = self._rows.begin(message, over)
        if row is not None:
            call.when_cancelled(row.cancel)
        return row is not None

    def _count(self, row: Row, answer: bytes | StatecellError) -> None:
        count = self._counts[row.home.name, row.home.version]
        if isinstance(answer, bytes):
            count.succeeded += 1
            count.succeeded_ns += row.ns
        else:
            count.failed += 1
            count.failed_ns += row.ns

    async def _infer_streamed(self, request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
        response = pb.ModelStreamInferResponse()
        try:
            await self.answer(request, response.infer_response)
        except StatecellError as error:
            write_streamed_error(request, error, response)
        response.infer_response.parameters["triton_final_response"].bool_param = True  # every request has one answer
        return response

    async def answer(self, request: pb.ModelInferRequest, into: pb.ModelInferResponse | None = None) -> pb.ModelInferResponse:
        """ModelInfer without its transport; `into`: an answer that is in its message already. Raises StatecellError."""
        message = pb.ModelInferResponse() if into is None else into
        began = time.perf_counter_ns()
        try:
            step = read_request(request)
            answer = await (self._infer(request) if step is None else self._sequences.step(step))
            write_answer(request, answer, () if step is None else step.outputs, message)
        except StatecellError:
            self._failed(request, time.perf_counter_ns() - began)
            raise
        count = self._counts[answer.runner.name, answer.runner.version]
        count.succeeded += 1
        count.succeeded_ns += time.perf_counter_ns() - began
        return message

    ModelInfer = unary(answer)

    async def _infer(self, request: pb.ModelInferRequest) -> Answer:
        """A stateless call."""
        runner = self._engine.models.get(request.model_name, request.model_version)
        wanted = read_outputs(request) or runner.output_names
        check_outputs(wanted, [*runner.output_names, *(s.output for s in runner.spec.states)])
        outputs = await self._engine.steps.infer(runner.name, runner.version, read_inputs(request))
        return Answer(runner, {name: outputs[name] for name in wanted}, None)

    def _failed(self, request: pb.ModelInferRequest, ns: int) -> None:
        try:
            runner = self._engine.models.get(request.model_name, request.model_version)
        except ModelNotFound:
            return
        count = self._counts[runner.name, runner.version]
        count.failed += 1
        count.failed_ns += ns

    @unary
    async def ModelStatistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        if request.name:
            self._engine.models.get(request.name, request.version)
        found = [r for r in self._engine.models if request.name in ("", r.name) and request.version in ("", r.version)]
        counts = [self._counts[r.name, r.version] for r in found]
        return pb.ModelStatisticsResponse(
            model_stats=[write_statistics(r, c.success, c.fail) for r, c in zip(found, counts, strict=True)]
        )

    @unary
    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        index = pb.RepositoryIndexResponse()
        for runner in self._engine.models:
            index.models.add(name=runner.name, version=runner.version, state="READY")
        for absent in () if request.ready else await self._engine.models.absent():
            index.models.add(name=absent.name, version=absent.version, state="UNAVAILABLE", reason=absent.reason)
        return index

    @unary
    async def RepositoryModelLoad(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        if request.parameters:
            raise InvalidRequest("a model is loaded as it is in the folder, without parameters", field="parameters")
        await self._engine.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    @unary
    async def RepositoryModelUnload(self, request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
        await self._engine.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    def drain(self) -> None:
        """Streams answer what they have read, and end."""
        self._streams.drain()

    def close(self) -> None:
        """After the last call was answered."""
        self._log.close()
