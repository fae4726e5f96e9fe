"""The paths of an operator's own: /health/live, /health/ready and /metrics."""

import asyncio
from collections.abc import Callable

from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from statecell_server.telemetry.collector import Collector, Moment
from statecell_server.transport.http1.turns import Turns

END = b"# EOF\n"
"""Of OpenMetrics' text."""


def endpoints(collector: Collector, ready: Callable[[], bool], turns: Turns) -> list[Route]:
    """`ready`: what grpc.health.v1 says of the server as a whole."""

    async def live(_: Request) -> Response:
        return JSONResponse({"status": "SERVING"})

    async def is_ready(_: Request) -> Response:
        return JSONResponse({"status": "SERVING"}) if ready() else JSONResponse({"status": "NOT_SERVING"}, 503)

    async def metrics(request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        async with turns.one():
            parts = []
            for family in (await collector.collect()).collect():
                parts.append(encode(Moment([family])).removesuffix(END))
                await asyncio.sleep(0)
        parts.append(END if "openmetrics" in kind else b"")
        return Response(b"".join(parts), headers={"Content-Type": kind})

    return [Route("/health/live", live), Route("/health/ready", is_ready), Route("/metrics", metrics)]
