"""statecell.v1 of a server with several workers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import Message
from statecell.v1 import inference_pb2 as pb

from statecell_server.access.caller import ANYBODY, Caller
from statecell_server.engine.engine import Engine
from statecell_server.errors import InvalidRequest
from statecell_server.protocols.call import Context, end
from statecell_server.protocols.v1.service import InferenceService
from statecell_server.workers.sessions import Sessions
from statecell_server.workers.v1_stream import RelayedSteps

PATH = "/statecell.v1.InferenceService/"


def _relayed(method: str) -> Callable[[Any, Any, Context], Awaitable[Any]]:
    """A call of one session: answered by the worker that has it."""

    async def answer(self: "RelayedV1", request: Any, context: Context) -> Any:
        index = self.sessions.owner(request.session_id)
        if index == self.sessions.index:
            return await getattr(InferenceService, method)(self, request, context)
        return await self.pass_on(index, method, request)

    return answer


class RelayedV1(InferenceService):
    """A session lives in the worker that its id names; all else is answered by any, for the whole."""

    def __init__(self, engine: Engine, sessions: Sessions) -> None:
        super().__init__(engine)
        self.sessions = sessions

    Step = _relayed("Step")
    GetState = _relayed("GetState")
    ForkSession = _relayed("ForkSession")
    ResetSession = _relayed("ResetSession")
    DeleteSession = _relayed("DeleteSession")

    def _stream(self, _: Caller) -> RelayedSteps:
        return RelayedSteps(self._engine, self._rows, self.sessions)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        whole: pb.ListModelsResponse = await InferenceService.ListModels(self, request, context)
        others = [index for index in self.sessions.peers.place.others if self.sessions.peers.up(index)]
        for answer in await asyncio.gather(*[self.pass_on(index, "ListModels", request) for index in others]):
            counts = {(m.name, m.version): m.session_count for m in pb.ListModelsResponse.FromString(answer).models}
            for model in whole.models:
                model.session_count += counts.get((model.name, model.version), 0)
        return whole

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        found: pb.GetModelResponse = await InferenceService.GetModel(self, request, context)
        models = (await self.ListModels(pb.ListModelsRequest(), context)).models
        counts = {(m.name, m.version): m.session_count for m in models}
        found.model.session_count = counts.get((found.model.name, found.model.version), 0)
        return found

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:
        """The sessions of one worker after the other; a page's token says which is next, and where in it."""
        peers, own = self.sessions.peers, self.sessions.index
        worker, dot, token = request.page_token.partition(".")
        if request.page_token and not (dot and worker.isascii() and worker.isdigit() and len(worker) < 4):
            error = InvalidRequest(
                f"page_token is {request.page_token[:40]!r}, expected what the page before gave", field="page_token"
            )
            await end(context, error)
        whole, index = pb.ListSessionsResponse(), int(worker or 0)
        size = min(request.page_size or 1000, 10_000)
        while index < peers.place.count:
            asked = pb.ListSessionsRequest(model=request.model, page_size=size - len(whole.sessions), page_token=token)
            if index == own:
                page = await InferenceService.ListSessions(self, asked, context)
            elif peers.up(index):
                page = pb.ListSessionsResponse.FromString(await self.pass_on(index, "ListSessions", asked))
            else:
                page = pb.ListSessionsResponse()
            whole.sessions.extend(page.sessions)
            token = page.next_page_token
            index += not token
            if len(whole.sessions) >= size or size < 0:
                break
        if index < peers.place.count:
            whole.next_page_token = f"{index}.{token}"
        return whole

    async def pass_on(self, index: int, method: str, request: Message) -> bytes:
        """The answer of that worker, serialised. Raises Aborted."""
        return await self.sessions.peers.call(index, PATH + method, request.SerializeToString())


class PassedV1(InferenceService):
    """What others pass on: their streams go on until they close them, also while this worker is about to stop."""

    async def StreamSteps(self, _: Any, context: Context) -> None:
        await self._streams.carry(context, self._stream(ANYBODY))
