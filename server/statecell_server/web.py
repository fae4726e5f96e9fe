"""Web: what the HTTP port serves, put together. Needs the extra `http`."""

import platform
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from statecell_server import __version__
from statecell_server.access.tokens import Tokens
from statecell_server.config import Config
from statecell_server.durability.circuit_breaker import CircuitBreaker
from statecell_server.engine.engine import Engine
from statecell_server.page.assets import assets
from statecell_server.page.routes import Page
from statecell_server.protocols.oip.answers import Answers
from statecell_server.protocols.rest.routes import Routes
from statecell_server.protocols.status import told
from statecell_server.telemetry.collector import Collector
from statecell_server.telemetry.endpoint import endpoints
from statecell_server.telemetry.sources import Listener, Sources
from statecell_server.transport.http1.guard import Guard
from statecell_server.transport.http1.server import HttpServer
from statecell_server.transport.http1.turns import Turns
from statecell_server.transport.http1.watched import Watched
from statecell_server.transport.limits import Limits
from statecell_server.transport.tls import Certificates
from statecell_server.transport.watch import Watch


def web(
    engine: Engine,
    store: CircuitBreaker | None,
    answers: Answers,
    config: Config,
    limits: Limits,
    listener: Listener,
    ready: Callable[[], bool],
    certificates: Certificates | None,
    tokens: Tokens,
    watch: Watch | None = None,
) -> HttpServer:
    """`listener`: the gRPC server, which listens already. `ready`: what grpc.health.v1 says of the server as a whole."""
    turns = Turns()
    sources = Sources(
        engine=engine,
        store=store,
        listener=listener,
        told=told,
        requests=answers.totals,
        http_connections=lambda: server.connections,
        ready=ready,
        build={"version": __version__, "python": platform.python_version(), "front": config.front},
    )
    page = Page(sources, config.models)
    rest = Routes(answers, limits.message, listener.memory, turns)
    app = Starlette(
        routes=[*endpoints(Collector(sources), ready, turns), *rest.all(), *page.all()],
        exception_handlers={HTTPException: _refuse, Exception: _fail},
    )
    guarded = Guard(app, limits.metadata, tokens, [route.path for route in assets()])
    server = HttpServer(guarded if watch is None else Watched(guarded, watch), limits, certificates, page.history.keep)
    return server


async def _refuse(request: Request, error: Exception) -> Response:
    """No such path, or not by this method."""
    assert isinstance(error, HTTPException), "it is registered for those"
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return JSONResponse({"error": message}, error.status_code, error.headers)


async def _fail(_: Request, error: Exception) -> Response:
    """The server's fault; it is logged by who called."""
    return JSONResponse({"error": f"the request failed: {error}"[:1000], "reason": "INTERNAL"}, 500)
