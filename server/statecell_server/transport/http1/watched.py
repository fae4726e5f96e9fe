"""Watched: an ASGI application whose requests a Watch is told of."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from statecell_server.transport.watch import Begun, Watch, named, printable

LONGEST_PATH = 200


class Watched:
    """`Watched(app, watch)`: an ASGI application around another."""

    def __init__(self, app: ASGIApp, watch: Watch) -> None:
        self._app = app
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        begun = Begun(
            f"{scope['method']} {printable(scope['path'][:LONGEST_PATH])}",
            named(tuple(scope["client"] or ())),
            printable(headers.get(b"x-request-id", b"").decode("latin-1")),
            printable(headers.get(b"traceparent", b"").decode("latin-1")),
        )
        over, status = self._watch(begun), "500"

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            over(status)
