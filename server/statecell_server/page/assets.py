"""Assets: the page's own files, from the package, with the headers that a browser holds the page to."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

TYPES = {"html": "text/html; charset=utf-8", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
"""By the end of a file's name; there is nothing else."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""Of the page's files; of what it asks for, `no-store` in the place of the last one."""


def assets() -> list[Route]:
    """`/` and `/page/<file>`. They are read once, here."""
    found = {}
    for file in (files("statecell_server.page") / "assets").iterdir():
        kind = TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            found[path] = (file.read_bytes(), kind)
    return [Route(path, _giving(*content), methods=["GET"]) for path, content in sorted(found.items())]


def _giving(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def give(_: Request) -> Response:
        return Response(content, headers={**HEADERS, "Content-Type": kind})

    return give
