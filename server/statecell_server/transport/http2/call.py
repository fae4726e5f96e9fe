"""Call: one gRPC call on its stream. It is the context that servicers get."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, NoReturn, Protocol

import grpc

from statecell_server.access.caller import Caller
from statecell_server.transport.exchange import WINDOW, DirectHandler, Exchange
from statecell_server.transport.http2.headers import Metadata, Request
from statecell_server.transport.http2.messages import Aborted, Messages
from statecell_server.transport.watch import Over

log = logging.getLogger(__name__)

CALL_WINDOW = 1 << 20
"""Bytes that a client may send on one call before they were taken in."""


class Method(NamedTuple):
    """What serves the calls of one path."""

    handler: Any  # a grpc.RpcMethodHandler whose behaviour is a coroutine or an asynchronous generator
    direct: DirectHandler | None = None  # asked first, where a call has one message and one answer


class Link(Protocol):
    """What a call asks of whatever carries its bytes."""

    def send(self, call: "Call", message: bytes) -> None:
        """One message of the answer."""

    def begun(self) -> None:
        """A task serves a call."""

    def wait(self, call: "Call", size: int) -> None:
        """So many bytes of messages wait in the call for whoever is to take them."""

    def taken(self, call: "Call") -> None:
        """None wait any more: the client may send more."""

    def end(self, call: "Call", code: int, message: str, metadata: Metadata) -> None:
        """The call is over; its trailers follow its messages."""

    def cut(self, call: "Call") -> None:
        """What is unsent of the call is not to be sent."""

    def give_up(self, call: "Call") -> None:
        """The call is over, but the client does not take what is unsent of it."""

    def ended(self, call: "Call") -> None:
        """All of the call was sent."""


class Call:
    """Takes messages from its link and hands them to its handler. Belongs to the event loop.

    What servicers use of grpc.aio.ServicerContext is here too: read, write, abort, abort_with_status.
    """

    __slots__ = (
        "_awaited",
        "_cancelled",
        "_deadline",
        "_direct",
        "_draining",
        "_ended",
        "_exchange",
        "_handler",
        "_inbox",
        "_link",
        "_over",
        "_passing",
        "_task",
        "began",
        "caller",
        "granted",
        "half_closed",
        "headers_size",
        "id",
        "length",
        "messages",
        "responded",
        "single",
        "trailers",
        "unsent",
        "untaken",
        "watched",
        "window",
    )

    def __init__(
        self,
        link: Link,
        stream: int,
        request: Request,
        method: Method,
        max_message: int,
        caller: Caller,
    ) -> None:
        self.id = stream
        self.caller = caller
        self.messages = Messages(max_message, request.encoding)
        self.window = CALL_WINDOW  # bytes that the client may send
        self.granted = 0  # that we may send beyond the window of all calls; less than none once much was sent
        self.length = request.length  # bytes of DATA that are to come, where the client has said so
        self.headers_size = request.size
        self.untaken = 0  # bytes of messages that have waited since nothing did
        self.began = time.monotonic()
        self.single = not method.handler.request_streaming  # the client sends one message
        self.half_closed = False  # the client has sent all
        self.responded = False  # the response's headers were sent
        self.unsent: deque[memoryview] = deque()  # what the windows have no room for
        self.trailers = b""  # to be sent after that
        self.watched: Over | None = None  # is told how it ends
        self._link = link
        self._handler, self._direct = method
        self._cancelled: Callable[[], None] | None = None
        self._inbox: deque[bytes] = deque()
        self._awaited: asyncio.Future[None] | None = None
        self._exchange: Exchange | None = None
        self._over: asyncio.Future[None] | None = None
        self._ended = self._draining = self._passing = False
        self._task: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        if request.timeout is not None:
            self._deadline = asyncio.get_running_loop().call_later(request.timeout, self._late)
        if self._handler.request_streaming:
            self.serve()

    # From the link

    def feed(self, payload: bytes | memoryview) -> None:
        """The next bytes."""
        try:
            found = self.messages.feed(payload)
        except Aborted as error:
            self.cancel(error)
            return
        if found and not self._draining:
            self._inbox += found
            self._pass_on()
            if self._inbox:
                self._link.wait(self, sum(map(len, found)))

    def half_close(self) -> None:
        """The client has sent all."""
        self.half_closed = True
        if self._task is not None or self._ended:
            self._pass_on()
        elif self._direct is None or not self._begin_direct(self._direct):
            self.serve()

    def cancel(self, why: Aborted) -> None:
        """Ends the call from outside, whatever is unsent; where the client is gone, nobody hears why."""
        cancelled = self._cancelled
        if self._ended:
            self._link.give_up(self)
        else:
            self._link.cut(self)
            self._end(why.code, str(why), why.metadata)
        if cancelled is not None:
            cancelled()
        task, self._task = self._task, None  # it will hold its frames, and those the call
        if task is not None:
            task.cancel()

    def serve(self) -> None:
        """By the handler, in a task."""
        if not self._ended:
            self._link.begun()
            self._task = asyncio.get_running_loop().create_task(self._serve())

    def _begin_direct(self, direct: DirectHandler) -> bool:
        """Whether the call is answered without a task: it has one message, and that is of a kind that can be."""
        if len(self._inbox) != 1 or self.messages.size:
            return False
        message = self._inbox[0]
        try:
            return direct(message if type(message) is bytes else self.messages.plain(message), self)
        except Aborted as error:
            self._end(error.code, str(error), error.metadata)
        except Exception as error:
            log.exception("a call failed")
            self._end(grpc.StatusCode.UNKNOWN, f"the call failed: {error!r}")
        return True

    def reply(self, message: bytes) -> None:
        """As Direct."""
        if not self._ended:
            self._link.send(self, message)
            self._end(grpc.StatusCode.OK, "")

    def refuse(self, status: grpc.Status) -> None:
        """As Direct."""
        self._end(status.code, status.details, status.trailing_metadata or ())

    def when_cancelled(self, cancel: Callable[[], None]) -> None:
        """As Direct."""
        if not self._ended:
            self._cancelled = cancel

    def sent(self) -> None:
        """Nothing is unsent any more."""
        if self._ended:
            self._link.ended(self)
        else:
            self._pass_on()

    @property
    def reading(self) -> bool:
        """Whether the client may send more."""
        return not (self._inbox or self.half_closed or self._draining)

    # The handler

    async def _serve(self) -> None:
        handler = self._handler
        try:
            if handler.request_streaming or handler.response_streaming:
                await self._stream()
            else:
                self._send(await handler.unary_unary(self._only(), self))
        except Aborted as error:
            self._end(error.code, str(error), error.metadata)
        except asyncio.CancelledError:
            self._end(grpc.StatusCode.CANCELLED, "the call was cancelled")
            raise
        except Exception as error:
            log.exception("a call failed")
            self._end(grpc.StatusCode.UNKNOWN, f"the call failed: {error!r}")
        else:
            self._end(grpc.StatusCode.OK, "")

    async def _stream(self) -> None:
        """Many messages, one way or both."""
        handler = self._handler
        argument = self._requests() if handler.request_streaming else self._only()
        if not handler.response_streaming:
            await self.write(await handler.stream_unary(argument, self))
            return
        behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
        answers = behaviour(argument, self)
        if isinstance(answers, AsyncIterator):
            async for answer in answers:
                await self.write(answer)
        else:
            await answers

    def _only(self) -> Any:
        """The message, all of the client's being there."""
        if len(self._inbox) != 1:
            raise self._broken_off() or Aborted(grpc.StatusCode.INTERNAL, "expected exactly one message")
        return self._take()

    async def _requests(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    async def read(self) -> Any:
        """The next message, or grpc.aio.EOF."""
        while not self._inbox:
            if self.half_closed or self._draining:
                if (error := self._broken_off()) is not None:
                    raise error
                return grpc.aio.EOF
            await self._wait()
        return self._take()

    def _take(self) -> Any:
        message = self._inbox.popleft()
        if not self._inbox:
            self._link.taken(self)
        return self._parsed(message)

    async def write(self, message: Any) -> None:
        """Sends a message; waits while too many have not left."""
        self._send(message)
        while len(self.unsent) >= WINDOW:
            await self._wait()

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """Ends the call."""
        raise Aborted(status.code, status.details, status.trailing_metadata or ())

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """Ends the call."""
        raise Aborted(code, details, trailing_metadata)

    async def exchange(self, exchange: Exchange) -> None:
        """Passes messages on as they come, without a task's turn for each, until all are there and all are answered."""
        self._over = asyncio.get_running_loop().create_future()
        self._exchange = exchange
        exchange.begin(self._answer, self._fail)
        self._pass_on()
        try:
            await self._over
        finally:
            self._exchange = None
            exchange.cancel()

    def drain(self) -> None:
        """No more reading; an exchange ends when what it has received is answered."""
        self._draining = True
        self._inbox.clear()
        self._link.taken(self)
        self._pass_on()

    def _pass_on(self) -> None:
        """Where something has changed: to the exchange what it has room for, or to whoever waits."""
        exchange = self._exchange
        if exchange is None:
            if self._awaited is not None and not self._awaited.done():
                self._awaited.set_result(None)
            return
        if self._passing:
            return  # the exchange has answered within `receive`
        self._passing = True
        try:
            while self._inbox and exchange.open + len(self.unsent) < WINDOW:
                message = self._inbox.popleft()
                if type(message) is not bytes or not exchange.receive_bytes(message):
                    exchange.receive(self._parsed(message))
        except Exception as error:
            self._fail(error)
        finally:
            self._passing = False
        if not self._inbox:
            if self.untaken or self.window < CALL_WINDOW // 2:
                self._link.taken(self)
            if (self.half_closed or self._draining) and not exchange.open:
                self._fail(self._broken_off())

    def _answer(self, message: Any) -> None:
        if self._ended:
            return
        try:
            self._send(message)
        except Exception as error:
            self._fail(error)
        if self._inbox or self.half_closed or self._draining:
            self._pass_on()

    def _fail(self, error: BaseException | None) -> None:
        """The exchange is over: nothing more is passed on to it."""
        assert self._over is not None, "an exchange is going on"
        self._exchange = None
        if not self._over.done():
            self._over.set_result(None) if error is None else self._over.set_exception(error)

    def _broken_off(self) -> Aborted | None:
        """How a call ends whose last message did not come as a whole."""
        if not self.messages.size or self._draining:
            return None
        return Aborted(grpc.StatusCode.INTERNAL, "the last message breaks off")

    async def _wait(self) -> None:
        self._awaited = asyncio.get_running_loop().create_future()
        await self._awaited

    def _parsed(self, message: bytes) -> Any:
        if type(message) is not bytes:
            message = self.messages.plain(message)
        try:
            return self._handler.request_deserializer(message)
        except Exception as error:
            raise Aborted(grpc.StatusCode.INTERNAL, f"a message cannot be parsed: {error}") from error

    def _send(self, message: Any) -> None:
        if not self._ended:
            self._link.send(self, message if type(message) is bytes else self._handler.response_serializer(message))

    def _late(self) -> None:
        self.cancel(Aborted(grpc.StatusCode.DEADLINE_EXCEEDED, "the call's deadline has passed"))

    def _end(self, code: grpc.StatusCode, message: str, metadata: Metadata = ()) -> None:
        if self._ended:
            return
        self._ended = self._draining = True
        self._cancelled = None  # it holds whoever is to answer, and that holds the call
        self._inbox.clear()
        if self._deadline is not None:
            self._deadline.cancel()
        if self.watched is not None:
            self.watched(code.name)
        self._link.end(self, code.value[0], message, metadata)
