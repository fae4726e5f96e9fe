"""A servicer for the front alone: no models, no protobuf."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
from statecell_server.transport.http2.server import Server
from statecell_server.transport.limits import Limits
from statecell_server.transport.tls import Certificates

SAY, TALK, COUNT, REPEAT, HOLD = (f"/test.Echo/{name}" for name in ("Say", "Talk", "Count", "Repeat", "Hold"))

LIMITS = Limits(message=4 << 20)


class EchoExchange:
    """Answers each message by itself; `full` of them wait until they are released."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.held: list[bytes] = []
        self.holding = self.cancelled = False

    @property
    def open(self) -> int:
        return len(self.held)

    def begin(self, answer: Callable[[Any], None], fail: Callable[[BaseException], None]) -> None:
        self._answer, self._fail = answer, fail

    def receive_bytes(self, _: bytes) -> bool:
        return False

    def receive(self, message: bytes) -> None:
        self.received.append(message)
        if message == b"fail":
            raise RuntimeError("told to fail")
        if self.holding:
            self.held.append(message)
        else:
            self._answer(message)

    def release(self) -> None:
        self.holding = False
        while self.held:
            self._answer(self.held.pop(0))

    def cancel(self) -> None:
        self.cancelled = True


class Echo:
    """Its methods."""

    def __init__(self) -> None:
        self.exchanges: list[EchoExchange] = []
        self.began = self.cancelled = 0
        self.holding = False

    async def say(self, message: bytes, context: Any) -> bytes:
        self.began += 1
        word, _, rest = message.partition(b":")
        match word:
            case b"large":
                return b"a" * int(rest)
            case b"raise":
                raise RuntimeError(rest.decode())
            case b"abort":
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, rest.decode())
            case b"wait":
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    self.cancelled += 1
                    raise
        return message

    async def talk(self, _: AsyncIterator[bytes], context: Any) -> None:
        exchange = EchoExchange()
        exchange.holding = self.holding
        self.exchanges.append(exchange)
        await context.exchange(exchange)

    async def count(self, requests: AsyncIterator[bytes], _: Any) -> bytes:
        return str([len(request) async for request in requests]).encode()

    async def repeat(self, message: bytes, _: Any) -> AsyncIterator[bytes]:
        for i in range(int(message)):
            yield str(i).encode()

    async def hold(self, _requests: AsyncIterator[bytes], _: Any) -> bytes:
        """Reads nothing."""
        self.began += 1
        await asyncio.sleep(3600)
        return b""

    def handlers(self) -> dict[str, Any]:
        return {
            "Say": grpc.unary_unary_rpc_method_handler(self.say, bytes, bytes),
            "Talk": grpc.stream_stream_rpc_method_handler(self.talk, bytes, bytes),
            "Count": grpc.stream_unary_rpc_method_handler(self.count, bytes, bytes),
            "Repeat": grpc.unary_stream_rpc_method_handler(self.repeat, bytes, bytes),
            "Hold": grpc.stream_unary_rpc_method_handler(self.hold, bytes, bytes),
        }


class Front:
    """A front.Server with an Echo, on an event loop in a thread of its own."""

    def __init__(
        self,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
        limits: Limits = LIMITS,
        certificates: Certificates | None = None,
    ) -> None:
        self.echo = Echo()
        self.server = Server(limits, certificates)
        self.server.add_registered_method_handlers("test.Echo", self.echo.handlers())
        self.errors: list[dict[str, Any]] = []
        """What the event loop's exception handler was told."""
        self._runner = asyncio.Runner(loop_factory=loop_factory)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(120)

    def _run(self) -> None:
        self._runner.run(self._serve())
        self._runner.close()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self._over = asyncio.Event()
        self.address = f"127.0.0.1:{await self.server.listen('127.0.0.1', 0)}"
        self._ready.set()
        await self._over.wait()
        await self.server.stop(0)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """On the server's event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def do(self, action: Callable[[], Any]) -> Any:
        """On the server's event loop."""

        async def run() -> Any:
            return action()

        return self.run(run())

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    @property
    def connections(self) -> int:
        return len(self.server._connections)

    @property
    def calls(self) -> int:
        return sum(len(connection.calls) for connection in self.server._connections)


def say(channel: grpc.Channel) -> "grpc.UnaryUnaryMultiCallable[bytes, bytes]":
    """`say(channel)(b"x")`, as the library's client does it."""
    return channel.unary_unary(SAY)


def talk(channel: grpc.Channel) -> "grpc.StreamStreamMultiCallable[bytes, bytes]":
    return channel.stream_stream(TALK)


def repeat(channel: grpc.Channel) -> "grpc.UnaryStreamMultiCallable[bytes, bytes]":
    return channel.unary_stream(REPEAT)
