"""The Open Inference Protocol of a server with several workers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import Message
from statecell.oip import inference_pb2 as pb
from statecell.oip import inference_pb2_grpc

from statecell_server.access.caller import ANYBODY
from statecell_server.engine.engine import Engine
from statecell_server.errors import Draining
from statecell_server.protocols.call import Context, Streams, end
from statecell_server.protocols.oip.request import Key, session_id
from statecell_server.protocols.oip.service import GRPCInferenceService
from statecell_server.protocols.oip.stream import InferStream
from statecell_server.protocols.oip.wire import sequence_of
from statecell_server.sessions.owner import owner
from statecell_server.transport.http2.messages import Aborted
from statecell_server.workers.peers import Peers, PeerStream

PATH = "/inference.GRPCInferenceService/"


class RelayedStream(InferStream):
    """Passes requests on to the workers of their sequences; each has one answer, and those of a sequence keep their order."""

    def __init__(self, service: GRPCInferenceService, relay: "RelayedOip") -> None:
        super().__init__(*service.stream_parts, ANYBODY)
        self._relay = relay
        self._links: dict[int, PeerStream] = {}
        self._passed = 0  # requests that peers have not answered

    @property
    def open(self) -> int:
        return len(self._pending) + self._passed

    def receive_bytes(self, message: bytes) -> bool:
        if super().receive_bytes(message):
            return True
        request = pb.ModelInferRequest.FromString(message)
        index = self._relay.owner_of(request)
        if index == self._relay.index:
            return False
        link = self._links.get(index)
        if link is None:
            peers = self._relay.peers
            link = self._links[index] = PeerStream(peers.peer(index), PATH + "ModelStreamInfer", self._passed_over, self._fail)
        self._passed += 1
        link.send(message)
        return True

    def _passed_over(self, answer: bytes) -> None:
        self._passed -= 1
        self._answer(answer)

    def cancel(self) -> None:
        super().cancel()
        for link in self._links.values():
            link.close()


class RelayedOip(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """A sequence lives in the worker that its name gives; all else is answered by any, for the whole."""

    def __init__(self, engine: Engine, service: GRPCInferenceService, peers: Peers) -> None:
        self.peers = peers
        self.index, self._count = peers.place.index, peers.place.count
        self._engine = engine
        self._service = service
        self.direct = service.direct
        self._streams = Streams()
        for name in (
            "ServerLive",
            "ServerReady",
            "ServerMetadata",
            "ModelReady",
            "ModelMetadata",
            "ModelConfig",
            "RepositoryIndex",
            "TraceSetting",
            "LogSettings",
        ):
            setattr(self, name, getattr(service, name))

    def owner_of(self, request: pb.ModelInferRequest) -> int:
        """The worker that is to answer."""
        key: Key = sequence_of(request)
        return self.index if not key[1] else owner(session_id(key), self._count)

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> Any:
        index = self.owner_of(request)
        if index == self.index:
            return await self._service.ModelInfer(request, context)
        return await self._pass(index, "ModelInfer", request)

    async def ModelStreamInfer(self, _: AsyncIterator[pb.ModelInferRequest], context: Context) -> None:
        await self._streams.carry(context, RelayedStream(self._service, self))
        if self._engine.draining:
            error = Draining("the server is about to stop; what was answered is done, send the rest to another")
            await end(context, error)

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Context) -> pb.ModelStatisticsResponse:
        whole: pb.ModelStatisticsResponse = await self._service.ModelStatistics(request, context)
        for answer in await self._all("ModelStatistics", request):
            for stats in pb.ModelStatisticsResponse.FromString(answer).model_stats:
                for mine in whole.model_stats:
                    if (mine.name, mine.version) == (stats.name, stats.version):
                        add_statistics(mine, stats)
        return whole

    async def RepositoryModelLoad(self, request: pb.RepositoryModelLoadRequest, context: Context) -> Any:
        answer = await self._service.RepositoryModelLoad(request, context)
        await self._all("RepositoryModelLoad", request)
        return answer

    async def RepositoryModelUnload(self, request: pb.RepositoryModelUnloadRequest, context: Context) -> Any:
        """By all workers or by none: one that has sessions of the model keeps it, and then the others load it again."""
        done: list[int] = []
        again = pb.RepositoryModelLoadRequest(model_name=request.model_name)
        try:
            for index in filter(self.peers.up, self.peers.place.others):
                await self._pass(index, "RepositoryModelUnload", request)
                done.append(index)
            return await self._service.RepositoryModelUnload(request, context)
        except Aborted:
            for index in done:
                await self._pass(index, "RepositoryModelLoad", again)
            raise

    async def _pass(self, index: int, method: str, request: Message) -> bytes:
        return await self.peers.call(index, PATH + method, request.SerializeToString())

    async def _all(self, method: str, request: Message) -> list[bytes]:
        """Of all other workers that there are. Raises Aborted."""
        others = [index for index in self.peers.place.others if self.peers.up(index)]
        return list(await asyncio.gather(*[self._pass(index, method, request) for index in others]))

    def drain(self) -> None:
        """Streams answer what they have read, and end."""
        self._streams.drain()


def add_statistics(whole: pb.ModelStatistics, more: pb.ModelStatistics) -> None:
    """Of the same model in another worker."""
    whole.last_inference = max(whole.last_inference, more.last_inference)
    whole.inference_count += more.inference_count
    whole.execution_count += more.execution_count
    for part in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"):
        _add(getattr(whole.inference_stats, part), getattr(more.inference_stats, part))
    sizes = {stats.batch_size: stats for stats in whole.batch_stats}
    for stats in more.batch_stats:
        mine = sizes.get(stats.batch_size)
        if mine is None:
            whole.batch_stats.add().CopyFrom(stats)
            continue
        for part in ("compute_input", "compute_infer", "compute_output"):
            _add(getattr(mine, part), getattr(stats, part))


def _add(whole: pb.StatisticDuration, more: pb.StatisticDuration) -> None:
    whole.count += more.count
    whole.ns += more.ns
