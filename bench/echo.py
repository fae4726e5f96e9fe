"""An empty gRPC server in Python: answers every message with the message itself. `python -m bench.echo`"""

import asyncio
import importlib
import importlib.util
import signal
from typing import Any

import grpc

from bench.messages import STEP, STREAM


async def unary(request: bytes, _: Any) -> bytes:
    return request


async def streaming(_: Any, context: Any) -> None:
    while (message := await context.read()) is not grpc.aio.EOF:
        await context.write(message)


class Handlers(grpc.GenericRpcHandler):
    """Bytes in, bytes out, under the names of the real service."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return {STEP: grpc.unary_unary_rpc_method_handler(unary), STREAM: grpc.stream_stream_rpc_method_handler(streaming)}[
            details.method
        ]


async def serve() -> None:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers([Handlers()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(1)


if __name__ == "__main__":
    if importlib.util.find_spec("uvloop"):  # as the server does
        importlib.import_module("uvloop").run(serve())
    else:
        asyncio.run(serve())
