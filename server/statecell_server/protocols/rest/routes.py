"""The protocol's paths: unpack, one await of Answers, pack."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from statecell.oip import inference_pb2 as pb

from statecell_server.errors import InvalidRequest, StatecellError
from statecell_server.protocols.oip.answers import Answers
from statecell_server.protocols.oip.settings import refuse
from statecell_server.protocols.rest.answer import LENGTH, failure, write_answer
from statecell_server.protocols.rest.plain import plain
from statecell_server.protocols.rest.request import InferBody, JsonTooLarge, read_infer, read_json
from statecell_server.transport.http1.body import Gone, NoRoom, TooLarge, body_of
from statecell_server.transport.http1.guard import CALLER
from statecell_server.transport.http1.turns import Turns
from statecell_server.transport.http2.memory import Memory

SMALL = 16 << 10
"""Bytes of a body that is read at once: one that is larger waits for its turn."""
GONE = 499
"""Nobody sees it: the client has closed the connection."""

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]


class Routes:
    """`Starlette(routes=Routes(answers, 64 << 20, memory, turns).all())`. Belongs to the event loop."""

    def __init__(self, answers: Answers, most: int, memory: Memory, turns: Turns) -> None:
        """`most`: bytes of a body; `memory`: what bodies count against."""
        self._answers = answers
        self._most = most
        self._memory = memory
        self._turns = turns

    def all(self) -> list[BaseRoute]:
        """Every path, with and without a version where a model may have one."""
        model, found = "/v2/models/{name}", []
        for path, handler, methods in (
            ("/v2", self._metadata, ["GET"]),
            ("/v2/health/live", self._live, ["GET"]),
            ("/v2/health/ready", self._ready, ["GET"]),
            ("/v2/models/stats", self._statistics, ["GET"]),
            ("/v2/trace/setting", self._trace_setting, ["GET", "POST"]),
            (f"{model}/trace/setting", self._trace_setting, ["GET", "POST"]),
            ("/v2/logging", self._log_settings, ["GET", "POST"]),
            ("/v2/repository/index", self._index, ["GET", "POST"]),
            ("/v2/repository/models/{name}/load", self._load, ["POST"]),
            ("/v2/repository/models/{name}/unload", self._unload, ["POST"]),
            *((model + tail, handler, [method]) for tail, handler, method in self._of_models()),
            *((f"{model}/versions/{{version}}{tail}", handler, [method]) for tail, handler, method in self._of_models()),
        ):
            found.append(Route(path, self._guarded(handler), methods=methods))
        return list(found)

    def _of_models(self) -> list[tuple[str, Handler, str]]:
        return [
            ("", self._model_metadata, "GET"),
            ("/ready", self._model_ready, "GET"),
            ("/config", self._model_config, "GET"),
            ("/stats", self._statistics, "GET"),
            ("/infer", self._infer, "POST"),
        ]

    @staticmethod
    def _guarded(handler: Handler) -> Handler:
        """Errors become answers."""

        async def guarded(request: Request) -> Response:
            try:
                return await handler(request)
            except StatecellError as error:
                return failure(error)
            except (TooLarge, JsonTooLarge) as error:
                return JSONResponse({"error": str(error)}, 413, {"Connection": "close"})
            except NoRoom as error:
                return JSONResponse({"error": str(error)}, 503, {"Connection": "close", "Retry-After": "1"})
            except Gone:
                return Response(status_code=GONE)

        return guarded

    async def _live(self, _: Request) -> Response:
        answer = await self._answers.live(pb.ServerLiveRequest())
        return JSONResponse(plain(answer))

    async def _ready(self, _: Request) -> Response:
        answer = await self._answers.ready(pb.ServerReadyRequest())
        return JSONResponse(plain(answer), 200 if answer.ready else 503)

    async def _metadata(self, _: Request) -> Response:
        return JSONResponse(plain(await self._answers.metadata(pb.ServerMetadataRequest())))

    async def _model_metadata(self, request: Request) -> Response:
        return JSONResponse(plain(await self._answers.model_metadata(pb.ModelMetadataRequest(**_model(request)))))

    async def _model_ready(self, request: Request) -> Response:
        answer = await self._answers.model_ready(pb.ModelReadyRequest(**_model(request)))
        return JSONResponse({"name": _model(request)["name"], "ready": answer.ready}, 200 if answer.ready else 503)

    async def _model_config(self, request: Request) -> Response:
        answer = await self._answers.model_config(pb.ModelConfigRequest(**_model(request)))
        return JSONResponse(plain(answer.config))

    async def _statistics(self, request: Request) -> Response:
        return JSONResponse(plain(await self._answers.statistics(pb.ModelStatisticsRequest(**_model(request)))))

    async def _index(self, request: Request) -> Response:
        ready = (await self._json(request)).get("ready", False)
        if not isinstance(ready, bool):
            raise InvalidRequest(f"ready is {str(ready)[:40]!r}, expected true or false", field="ready")
        answer = await self._answers.index(pb.RepositoryIndexRequest(ready=ready))
        return JSONResponse([plain(model) for model in answer.models])

    async def _trace_setting(self, request: Request) -> Response:
        refuse(await self._json(request), "--otlp-endpoint")
        answer = await self._answers.trace_setting(pb.TraceSettingRequest(model_name=_model(request).get("name", "")))
        values = {name: list(setting.value) for name, setting in answer.settings.items()}
        return JSONResponse({name: of if len(of) > 1 or name == "trace_level" else of[0] for name, of in values.items()})

    async def _log_settings(self, request: Request) -> Response:
        refuse(await self._json(request), "--log-level and --log-format")
        answer = await self._answers.log_settings(pb.LogSettingsRequest())
        kinds = {name: (setting, str(setting.WhichOneof("parameter_choice"))) for name, setting in answer.settings.items()}
        return JSONResponse({name: getattr(setting, kind) for name, (setting, kind) in kinds.items()})

    async def _load(self, request: Request) -> Response:
        if (await self._json(request)).get("parameters"):
            raise InvalidRequest("a model is loaded as it is in the folder, without parameters", field="parameters")
        await self._answers.load(pb.RepositoryModelLoadRequest(model_name=_model(request)["name"]), request.scope[CALLER])
        return JSONResponse({})

    async def _unload(self, request: Request) -> Response:
        await self._json(request)
        await self._answers.unload(pb.RepositoryModelUnloadRequest(model_name=_model(request)["name"]), request.scope[CALLER])
        return JSONResponse({})

    async def _json(self, request: Request) -> dict[str, object]:
        async with body_of(request.receive, self._most, self._memory) as body:
            return read_json(body)

    async def _infer(self, request: Request) -> Response:
        if request.headers.get("content-encoding", "identity") != "identity":
            return JSONResponse({"error": "the body is compressed, which this server does not take"}, 415)
        async with body_of(request.receive, self._most, self._memory) as body:
            wanted = await self._read(body, request)
            answer = await _unless_gone(self._answers.infer(wanted.message, request.scope[CALLER]), request)
        return await write_answer(answer, wanted, self._turns)

    async def _read(self, body: bytes, request: Request) -> InferBody:
        model = _model(request)
        if len(body) <= SMALL:
            return read_infer(body, request.headers.get(LENGTH), model["name"], model.get("version", ""))
        async with self._turns.one():
            return read_infer(body, request.headers.get(LENGTH), model["name"], model.get("version", ""))


def _model(request: Request) -> dict[str, str]:
    """Its name, and its version where the path has one."""
    return {name: str(value) for name, value in request.path_params.items()}


async def _unless_gone(answer: Awaitable[T], request: Request) -> T:
    """As a cancelled call of gRPC: what nobody waits for any more is not applied. Raises Gone."""
    answering = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(request.receive())  # after the body, all that can come is the end of the connection
    try:
        await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise Gone
        return answering.result()
    finally:
        answering.cancel()
        leaving.cancel()
