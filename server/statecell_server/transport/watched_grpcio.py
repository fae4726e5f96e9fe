"""WatchedGrpcio: grpcio's own way to tell a Watch of calls."""

import functools
import inspect
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from statecell_server.transport.watch import Begun, Watch, printable

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class WatchedGrpcio(grpc.aio.ServerInterceptor):
    """`grpc.aio.server(interceptors=[WatchedGrpcio(watch)])`."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """As grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        if handler is None:  # there is no such method
            return handler
        kinds = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
        kind = next(kind for kind in kinds if getattr(handler, kind) is not None)
        metadata = {key: value for key, value in handler_call_details.invocation_metadata if isinstance(value, str)}
        begin = functools.partial(self._begin, handler_call_details.method, metadata)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(_wrapped(getattr(handler, kind), begin), handler.request_deserializer, handler.response_serializer)

    def _begin(self, rpc: str, metadata: dict[str, str], context: Any) -> None:
        peer = urllib.parse.unquote(context.peer()).partition(":")[2]  # without "ipv4:"
        request_id, trace = (printable(metadata.get(name, "")) for name in ("x-request-id", "traceparent"))
        over = self._watch(Begun(rpc, peer, request_id, trace))

        def ended(done: Any) -> None:
            code = done.code()
            over("CANCELLED" if done.cancelled() else code.name if isinstance(code, grpc.StatusCode) else _CODES[code or 0])

        context.add_done_callback(ended)


def _wrapped(behaviour: Callable[[Any, Any], Any], begin: Callable[[Any], None]) -> Callable[[Any, Any], Any]:
    if inspect.isasyncgenfunction(behaviour):

        async def answers(request: Any, context: Any) -> AsyncIterator[Any]:
            begin(context)
            async for answer in behaviour(request, context):
                yield answer

        return answers

    async def answer(request: Any, context: Any) -> Any:
        begin(context)
        return await behaviour(request, context)

    return answer
