"""The front that is grpcio's own server."""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc

from statecell_server.access.caller import Caller
from statecell_server.access.tokens import Tokens
from statecell_server.errors import Unauthenticated
from statecell_server.transport.exchange import WINDOW, Carrier, DirectHandler, Exchange
from statecell_server.transport.http2.call import Call
from statecell_server.transport.http2.memory import Memory
from statecell_server.transport.limits import Limits
from statecell_server.transport.tls import Certificates
from statecell_server.transport.watch import Watch
from statecell_server.transport.watched_grpcio import WatchedGrpcio

_caller: contextvars.ContextVar[Caller] = contextvars.ContextVar("caller")
"""Of the call that a task serves."""


class _Door(grpc.aio.ServerInterceptor):
    """Lets in whoever has a token, before a message is read."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        given = [str(value) for key, value in details.invocation_metadata or () if key == "authorization"]
        try:
            _caller.set(self._tokens.admit_to(details.method, given[0] if given else ""))
        except Unauthenticated as error:
            why = str(error)

            async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, why)

            return grpc.stream_stream_rpc_method_handler(refuse)
        return await continuation(details)


def caller_of(context: Any) -> Caller:
    """Whose call it is, by either front. Within the task that serves it."""
    return context.caller if isinstance(context, Call) else _caller.get()


class GrpcioServer:
    """Of the same shape as http2.server.Server."""

    def __init__(
        self,
        limits: Limits,
        certificates: Certificates | None = None,
        tokens: Tokens | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Of the limits, connections and their memory are not counted here. `certificates`: None: in clear text.

        `tokens`: None: nobody is asked for one. `watch`: is told of every call.
        """
        self._certificates = certificates
        self.memory = Memory(limits.memory)  # of others than its own connections
        self.connections: int | None = None
        self.closed: dict[str, int] = {}
        self._server = grpc.aio.server(
            interceptors=[*([] if watch is None else [WatchedGrpcio(watch)]), _Door(tokens or Tokens(None))],
            options=[
                ("grpc.max_receive_message_length", limits.message),
                ("grpc.max_metadata_size", limits.metadata),
                ("grpc.absolute_max_metadata_size", 2 * limits.metadata),
                ("grpc.max_connection_idle_ms", int(min(limits.idle_seconds * 1000, 2**31 - 1))),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
                # Thousands of sessions come at once after a restart: gRPC's own guard would cancel two thirds of them.
                ("grpc.server.max_pending_requests", 1_000_000),
                ("grpc.server.max_pending_requests_hard_limit", 1_000_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
            ],
        )
        self.add_generic_rpc_handlers = self._server.add_generic_rpc_handlers
        self.add_registered_method_handlers = self._server.add_registered_method_handlers

    def add_direct_handlers(self, service: str, handlers: Mapping[str, DirectHandler]) -> None:
        """Calls are served by their servicers' coroutines here."""

    async def listen(self, host: str, port: int, *, shared: bool = False) -> int:
        """The port that it listens on: `port`, or a free one where that is 0. Raises OSError."""
        assert not shared, "Config keeps this front to one process"
        try:
            address = f"{host}:{port}"
            found: int = (
                self._server.add_insecure_port(address)
                if self._certificates is None
                else self._server.add_secure_port(address, self._certificates.credentials())
            )
        except RuntimeError as error:
            raise OSError(str(error)) from error
        await self._server.start()
        return found

    async def stop(self, grace: float) -> None:
        """No more calls; those that there are have `grace` seconds."""
        await self._server.stop(grace)


def carrier(context: Any) -> Carrier:
    """The call itself where it can carry an Exchange."""
    return context if isinstance(context, Call) else GrpcioCall(context)


class GrpcioCall:
    """Reads messages and writes answers in two tasks, as grpc.aio wants it."""

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._context = context
        self._answers: deque[Any] = deque()
        self._error: BaseException | None = None
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    async def exchange(self, exchange: Exchange) -> None:
        """As front.Call.exchange."""
        exchange.begin(self._answer, self._fail)
        self._reader = asyncio.create_task(self._read(exchange))
        self._reader.add_done_callback(lambda _: self._changed.set())
        try:
            while self._error is None and (self._answers or exchange.open or not self._reader.done()):
                if self._answers:
                    await self._context.write(self._answers.popleft())
                    self._room.set()
                else:
                    self._changed.clear()
                    await self._changed.wait()
            if self._error is not None:
                raise self._error
            if not self._reader.cancelled():
                self._reader.result()
        finally:
            self._reader.cancel()
            exchange.cancel()

    def drain(self) -> None:
        """No more reading; what was read is answered."""
        self._reader.cancel()

    async def _read(self, exchange: Exchange) -> None:
        while (message := await self._context.read()) is not grpc.aio.EOF:
            exchange.receive(message)
            while exchange.open + len(self._answers) >= WINDOW:
                self._room.clear()
                await self._room.wait()

    def _answer(self, message: Any) -> None:
        self._answers.append(message)
        self._changed.set()

    def _fail(self, error: BaseException) -> None:
        self._error = error
        self._changed.set()
