"""Answers: what the calls of the Open Inference Protocol do, whatever they come by."""

import time
from collections import defaultdict
from collections.abc import Mapping

from statecell.oip import inference_pb2 as pb

from statecell_server import __version__
from statecell_server.access.caller import ANYBODY, Caller
from statecell_server.access.tokens import check_admin
from statecell_server.batching.inputs import check_outputs
from statecell_server.config import Config, ConfigError
from statecell_server.engine.engine import Engine
from statecell_server.errors import InvalidRequest, ModelNotFound, StatecellError
from statecell_server.protocols.oip.model import write_config, write_metadata, write_statistics
from statecell_server.protocols.oip.request import Answer
from statecell_server.protocols.oip.sequence_log import DamagedLog, SequenceLog
from statecell_server.protocols.oip.sequences import Sequences
from statecell_server.protocols.oip.settings import refuse, write_log, write_trace
from statecell_server.protocols.oip.wire import read_inputs, read_outputs, read_request, write_answer

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


class Answers:
    """`await answers.infer(pb.ModelInferRequest(...))`: an rpc's message, and its answer. All raise StatecellError."""

    def __init__(self, engine: Engine, config: Config) -> None:
        """Raises ConfigError."""
        self._engine = engine
        self._config = config
        try:
            self._log = SequenceLog(config.sequence_roll, config.longest_ttl)
        except OSError as error:
            raise ConfigError(f"--sequence-roll {config.sequence_roll} cannot be written: {error.strerror}") from error
        except DamagedLog as error:
            raise ConfigError(
                f"--sequence-roll {config.sequence_roll} is damaged: {error}; move it away to begin without it"
            ) from error
        self.sequences = Sequences(engine, self._log, lambda model: config.one("sequence_start", model) == "restart")
        self.counts: defaultdict[tuple[str, str], Count] = defaultdict(Count)

    def totals(self) -> Mapping[tuple[str, str], tuple[tuple[int, int], tuple[int, int]]]:
        """(count, nanoseconds) of the requests that were answered and of those that failed, by model and version."""
        return {key: (count.success, count.fail) for key, count in self.counts.items()}

    async def live(self, _: pb.ServerLiveRequest, _caller: Caller = ANYBODY) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ready(self, _: pb.ServerReadyRequest, _caller: Caller = ANYBODY) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=not self._engine.draining)

    async def model_ready(self, request: pb.ModelReadyRequest, _caller: Caller = ANYBODY) -> pb.ModelReadyResponse:
        try:
            self._engine.models.get(request.name, request.version)
        except ModelNotFound:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not self._engine.draining)

    async def metadata(self, _: pb.ServerMetadataRequest, _caller: Caller = ANYBODY) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="statecell", version=__version__, extensions=EXTENSIONS)

    async def model_metadata(self, request: pb.ModelMetadataRequest, _caller: Caller = ANYBODY) -> pb.ModelMetadataResponse:
        runner = self._engine.models.get(request.name, request.version)
        return write_metadata(runner, [r.version for r in self._engine.models if r.name == runner.name])

    async def model_config(self, request: pb.ModelConfigRequest, _caller: Caller = ANYBODY) -> pb.ModelConfigResponse:
        runner = self._engine.models.get(request.name, request.version)
        config = self._config.of(runner.name)
        return pb.ModelConfigResponse(config=write_config(runner, config.max_batch, config.session_ttl))

    async def infer(
        self, request: pb.ModelInferRequest, caller: Caller, into: pb.ModelInferResponse | None = None
    ) -> pb.ModelInferResponse:
        """ModelInfer without its transport; `into`: an answer that is in its message already. Raises StatecellError."""
        message = pb.ModelInferResponse() if into is None else into
        began = time.perf_counter_ns()
        try:
            step = read_request(request, caller)
            answer = await (self._infer_alone(request) if step is None else self.sequences.step(step))
            write_answer(request, answer, () if step is None else step.outputs, message)
        except StatecellError:
            self._failed(request, time.perf_counter_ns() - began)
            raise
        count = self.counts[answer.runner.name, answer.runner.version]
        count.succeeded += 1
        count.succeeded_ns += time.perf_counter_ns() - began
        return message

    async def _infer_alone(self, request: pb.ModelInferRequest) -> Answer:
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
        count = self.counts[runner.name, runner.version]
        count.failed += 1
        count.failed_ns += ns

    async def statistics(self, request: pb.ModelStatisticsRequest, _caller: Caller = ANYBODY) -> pb.ModelStatisticsResponse:
        if request.name:
            self._engine.models.get(request.name, request.version)
        found = [r for r in self._engine.models if request.name in ("", r.name) and request.version in ("", r.version)]
        counts = [self.counts[r.name, r.version] for r in found]
        return pb.ModelStatisticsResponse(
            model_stats=[write_statistics(r, c.success, c.fail) for r, c in zip(found, counts, strict=True)]
        )

    async def index(self, request: pb.RepositoryIndexRequest, _caller: Caller = ANYBODY) -> pb.RepositoryIndexResponse:
        index = pb.RepositoryIndexResponse()
        for runner in self._engine.models:
            index.models.add(name=runner.name, version=runner.version, state="READY")
        for absent in () if request.ready else await self._engine.models.absent():
            index.models.add(name=absent.name, version=absent.version, state="UNAVAILABLE", reason=absent.reason)
        return index

    async def load(self, request: pb.RepositoryModelLoadRequest, caller: Caller) -> pb.RepositoryModelLoadResponse:
        check_admin(caller, "to load a model")
        if request.parameters:
            raise InvalidRequest("a model is loaded as it is in the folder, without parameters", field="parameters")
        await self._engine.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def unload(self, request: pb.RepositoryModelUnloadRequest, caller: Caller) -> pb.RepositoryModelUnloadResponse:
        check_admin(caller, "to unload a model")
        await self._engine.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def trace_setting(self, request: pb.TraceSettingRequest, _caller: Caller = ANYBODY) -> pb.TraceSettingResponse:
        if request.model_name:
            self._engine.models.get(request.model_name, "")
        refuse(request.settings, "--otlp-endpoint")
        return write_trace(self._config.traced)

    async def log_settings(self, request: pb.LogSettingsRequest, _caller: Caller = ANYBODY) -> pb.LogSettingsResponse:
        refuse(request.settings, "--log-level and --log-format")
        return write_log(self._config)

    def close(self) -> None:
        """After the last call was answered."""
        self._log.close()
