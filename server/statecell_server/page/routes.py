"""The page's paths: what it is made of, and what it asks for."""

import asyncio
import base64
import math
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from statecell_server.access.caller import Caller
from statecell_server.batching.runner import Runner
from statecell_server.engine.engine import Engine
from statecell_server.errors import InvalidRequest, StatecellError
from statecell_server.page.assets import HEADERS, assets
from statecell_server.page.events import WATCHERS, Watchers, event, stream
from statecell_server.page.history import FIGURES, SECONDS, History
from statecell_server.page.models import describe, line, proof
from statecell_server.page.picture import picture
from statecell_server.page.recent import Recent, state_of
from statecell_server.protocols.rest.answer import failure
from statecell_server.protocols.rest.request import read_json
from statecell_server.sessions.session import Session
from statecell_server.telemetry.sources import Sources
from statecell_server.transport.http1.body import Gone, NoRoom, TooLarge, body_of
from statecell_server.transport.http1.guard import CALLER

MOST_BODY = 4096
QUIET_SECONDS = 10.0
"""After which a stream that has nothing to say says so, and a proxy in between does not think that it is dead."""


class Page:
    """`Starlette(routes=Page(sources, folder).all())`. Belongs to the event loop; a step pays nothing for it."""

    def __init__(self, sources: Sources, models: Path) -> None:
        """`models`: the folder, for the reports of exports."""
        self._sources = sources
        self._folder = models
        self._engine: Engine = sources.engine
        self.history = History(self._engine.models)
        self._recent = Recent(self._engine.sessions, time.time)
        self.watchers = Watchers()
        self._pulse = (0, b"")  # what the last tick gives, made when the first one asks
        self._began = time.time()

    def all(self) -> list[BaseRoute]:
        """Every path. A session is named in a body only: its id is a key to it, and paths are written to logs."""
        return [
            *assets(),
            Route("/page/models", self._models, methods=["GET"]),
            Route("/page/model", self._model, methods=["GET"]),
            Route("/page/sessions", self._sessions, methods=["GET"]),
            Route("/page/live", self._live, methods=["POST"]),
            Route("/page/watch", self._watch, methods=["POST"]),
        ]

    async def _models(self, _: Request) -> Response:
        return _json(
            {
                "build": dict(self._sources.build),
                "figures": FIGURES,
                "seconds": SECONDS,
                "models": [line(runner) for runner in self._engine.models],
            }
        )

    async def _model(self, request: Request) -> Response:
        try:
            runner = self._runner(request)
        except StatecellError as error:
            return failure(error)
        proven = await asyncio.to_thread(proof, self._folder / runner.name / runner.version, runner.runtime.digest)
        ring = self.history.rings.get((runner.name, runner.version))
        points = b"" if ring is None else ring.all().astype("<f8").tobytes()
        return _json(describe(runner) | {"proof": proven, "history": base64.b64encode(points).decode()})

    async def _sessions(self, request: Request) -> Response:
        try:
            runner = self._runner(request)
        except StatecellError as error:
            return failure(error)
        caller: Caller = request.scope[CALLER]
        found, count = await self._recent.of((runner.name, runner.version), "" if caller.admin else caller.tag)
        return _json({"sessions": found, "all": len(runner.sessions) if caller.admin else count})

    def _runner(self, request: Request) -> Runner:
        """Raises ModelNotFound."""
        name, version = request.query_params.get("name", ""), request.query_params.get("version", "")
        return self._engine.models.get(name, version)

    async def _live(self, _: Request) -> Response:
        return self._crowded() or stream(self._ticks())

    async def _ticks(self) -> AsyncIterator[bytes]:
        with self.watchers.one():
            while self._sources.ready():
                yield self._tick()
                await self.history.ticked.wait()

    def _tick(self) -> bytes:
        """Made once a second, however many watch."""
        if self._pulse[0] != self.history.ticks:
            sources, budget = self._sources, self._engine.sessions.budget
            content = {
                "ready": sources.ready(),
                "uptime": round(time.time() - self._began),
                "sessions": len(self._engine.sessions),
                "connections": sources.listener.connections,
                "memory": [budget.used, budget.limit],
                "store": None if sources.store is None else not sources.store.open,
                "models": [[*key, _plain(ring.last().tolist())] for key, ring in self.history.rings.items() if ring.length],
            }
            self._pulse = (self.history.ticks, event("tick", content))
        return self._pulse[1]

    async def _watch(self, request: Request) -> Response:
        if refusal := self._crowded():
            return refusal
        try:
            async with body_of(request.receive, MOST_BODY, self._sources.listener.memory) as body:
                asked = read_json(body)
            session_id, row = asked.get("session"), asked.get("row", 0)
            if not isinstance(session_id, str):
                raise InvalidRequest("session is missing, expected the id of a session", field="session")
            if not isinstance(row, int) or isinstance(row, bool) or row < 0:
                raise InvalidRequest(f"row is {str(row)[:40]!r}, expected a row of the session's batch, from 0", field="row")
            caller: Caller = request.scope[CALLER]
            if not caller.owns(session_id):
                raise self._engine.sessions.foreign(session_id)
            session = self._engine.sessions.get(session_id)
        except StatecellError as error:
            return failure(error)
        except (TooLarge, NoRoom) as error:
            return JSONResponse({"error": str(error)}, 413, {"Connection": "close"})
        except Gone:
            return Response(status_code=499)
        return stream(self._states(session, row))

    async def _states(self, session: Session, row: int) -> AsyncIterator[bytes]:
        with self.watchers.one():
            clock = asyncio.get_running_loop().time
            seen: tuple[object, ...] = ()
            said = clock()
            while self._sources.ready():
                if self._engine.sessions.known(session.id) is not session:
                    yield event("gone", {"error": "the session is over, or another server has it"})
                    return
                now = (session.step_index, session.slots, state_of(session))
                if now != seen:
                    seen, said = now, clock()
                    yield self._frame(session, row)
                elif clock() - said > QUIET_SECONDS:
                    said = clock()
                    yield b": nothing new\n\n"
                await asyncio.sleep(self.watchers.interval)

    def _frame(self, session: Session, row: int) -> bytes:
        runner = self._engine.models.of(session)
        content = {
            "model": session.model,
            "version": session.version,
            "step_index": session.step_index,
            "state": state_of(session),
            "batch": session.batch,
            "row": min(row, session.batch - 1),
            "durable": session.durable,
            "states": picture(runner.spec.states, runner.state(session), row),
        }
        return event("state", content)

    def _crowded(self) -> Response | None:
        if not self.watchers.full:
            return None
        why = f"{WATCHERS} pages are being watched, which is the most; close one and try again"
        return JSONResponse({"error": why}, 503, {"Retry-After": "5"})


def _plain(figures: list[float]) -> list[float | None]:
    """JSON has no NaN."""
    return [None if math.isnan(figure) else float(f"{figure:.12g}") for figure in figures]


def _json(content: dict[str, Any]) -> Response:
    return JSONResponse(content, headers={**HEADERS, "Cache-Control": "no-store"})
