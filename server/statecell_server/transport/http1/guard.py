"""Guard: pages of other origins do not speak to this server from within somebody's browser."""

from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class Guard:
    """An ASGI application around another: a request with the Origin of another host is answered with 403."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is None or self._host(origin) == headers.get(b"host"):
            await self._app(scope, receive, send)
            return
        refusal = JSONResponse({"error": "the request is of a web page of another host"}, 403, {"Connection": "close"})
        await refusal(scope, receive, send)

    @staticmethod
    def _host(origin: bytes) -> bytes | None:
        try:
            return urlsplit(origin).netloc
        except ValueError:
            return None
