"""Guard: what is refused before anything else looks at it: other versions, large heads, two lengths, pages of other hosts."""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from statecell_server.access.caller import ANYBODY, Caller
from statecell_server.access.tokens import Tokens
from statecell_server.errors import Unauthenticated

OPEN = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
"""Paths that need no token: what an orchestrator asks."""
CALLER = "statecell.caller"
"""Where a request's scope has whose it is."""


class Guard:
    """An ASGI application around another. What it refuses closes the connection."""

    def __init__(self, app: ASGIApp, metadata: int, tokens: Tokens, free: Collection[str] = ()) -> None:
        """`metadata`: bytes of a request's headers at most: names, values, and 32 for each.

        `tokens`: who may ask. `free`: paths that say nothing of anybody, and need no token.
        """
        self._app = app
        self._metadata = metadata
        self._tokens = tokens
        self._open = {*OPEN, *free}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, why = self._refusal(scope)
        if not why:
            try:
                scope[CALLER] = self._caller(scope)
            except Unauthenticated as error:
                status, why = 401, str(error)
        headers = {"Connection": "close"} | ({"WWW-Authenticate": "Bearer"} if status == 401 else {})
        app = JSONResponse({"error": why}, status, headers) if why else self._app
        await app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str]:
        """The status and why; ("" for none)."""
        if scope["http_version"] not in ("1.0", "1.1"):
            return 505, f"the request is of HTTP/{scope['http_version'][:8]}, expected HTTP/1.1"
        size = sum(len(name) + len(value) + 32 for name, value in scope["headers"])
        if size > self._metadata:
            return 431, f"the request's headers have {size} bytes, the most is {self._metadata} (--max-metadata)"
        headers = dict(scope["headers"])
        if b"transfer-encoding" in headers and (b"content-length" in headers or scope["http_version"] == "1.0"):
            # A proxy in front may see its end elsewhere, and another's request in what follows (RFC 9112, 6.1).
            return 400, "the request has a Transfer-Encoding beside a Content-Length, or in HTTP/1.0; expected one length"
        origin = headers.get(b"origin")
        if origin is not None and self._host(origin) != headers.get(b"host"):
            return 403, "the request is of a web page of another host"
        return 200, ""

    def _caller(self, scope: Scope) -> Caller:
        """Raises Unauthenticated."""
        if scope["path"] in self._open:
            return ANYBODY
        return self._tokens.admit(dict(scope["headers"]).get(b"authorization", b"").decode("latin-1"))

    @staticmethod
    def _host(origin: bytes) -> bytes | None:
        try:
            return urlsplit(origin).netloc
        except ValueError:
            return None
