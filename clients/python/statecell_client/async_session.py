"""A session under asyncio. The blocking Session runs this very code."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any, Self, overload

import numpy as np
from statecell.v1 import inference_pb2 as wire

from statecell_client.arrays import Array, ArrayLike
from statecell_client.connection import Connection
from statecell_client.errors import NonFiniteInput, SessionGone, StatecellError
from statecell_client.layout import Inputs, Layout
from statecell_client.model import Model
from statecell_client.progress import Progress
from statecell_client.retry import Route
from statecell_client.snapshot import Snapshot
from statecell_client.step_stream import StepStream

MESSAGE_STEPS = 256
MESSAGE_BYTES = 1 << 20
CLOSE_SECONDS = 5.0


class AsyncSession:
    """As Session, with await."""

    def __init__(self, connection: Connection, route: Route, model: Model, session: wire.Session) -> None:
        self._connection = connection
        self._route = route
        self._layout = Layout(model.spec, session.batch)
        self._progress = Progress(session.step_index)
        self.model = model
        self.id = session.session_id
        self.batch = session.batch
        self.durable = session.durable

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} of {self.model.name}, batch {self.batch}, step_index {self.step_index}>"

    @property
    def step_index(self) -> int:
        """As Session.step_index."""
        return self._progress.step_index

    async def step(self, x: ArrayLike = None, /, **inputs: ArrayLike) -> Any:
        """As Session.step."""
        one = self._layout.step(x, inputs)
        (answer,) = self._layout.step_answers(await self._advance(one), one)
        return answer

    async def run(self, xs: ArrayLike = None, /, **inputs: ArrayLike) -> Any:
        """As Session.run."""
        whole = self._layout.run(xs, inputs)
        messages = self._layout.cut(whole, max(1, min(MESSAGE_STEPS, MESSAGE_BYTES // self._layout.step_bytes)))
        if len(messages) == 1:
            return self._layout.run_answer([await self._advance(whole)], whole)
        for name, array in whole.arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():  # found before the first message advances the state
                raise NonFiniteInput(f"{name!r} holds NaN or infinity", metadata={"tensor": name})
        try:
            async with aclosing(self._exchange(each(messages), ahead=True)) as replies:
                pieces = [outputs async for _, outputs in replies]
        except StatecellError as error:
            error.add_note(f"the run stopped in the middle; the session stands at step_index {self.step_index}")
            raise
        return self._layout.run_answer(pieces, whole)

    async def stream(self, inputs: Iterable[Any] | AsyncIterable[Any], *, ahead: int = 1) -> AsyncGenerator[Any]:
        """As Session.stream; `inputs` may also be an asynchronous iterable."""
        if ahead < 1:
            raise ValueError(f"ahead is {ahead}, expected at least 1")
        messages = self._messages(each(inputs), ahead)
        async with aclosing(self._exchange(messages, ahead=ahead > 1)) as replies:
            async for message, outputs in replies:
                for answer in self._layout.step_answers(outputs, message):
                    yield answer

    async def snapshot(self) -> Snapshot:
        """As Session.snapshot."""
        reply = await self._call("GetState", wire.GetStateRequest(session_id=self.id))
        self._progress.stands_at(reply.snapshot.step_index)
        return Snapshot(reply.snapshot)

    @property
    async def state(self) -> dict[str, Array]:
        """As Session.state: `await session.state`."""
        return (await self.snapshot()).states

    @overload
    async def fork(self) -> Self: ...
    @overload
    async def fork(self, n: int) -> list[Self]: ...
    async def fork(self, n: int | None = None) -> Self | list[Self]:
        """As Session.fork."""
        reply = await self._call("ForkSession", wire.ForkSessionRequest(session_id=self.id, count=1 if n is None else n))
        route = self._route
        forks = [type(self)(self._connection, route.of_session(durable=s.durable), self.model, s) for s in reply.sessions]
        return forks[0] if n is None else forks

    async def reset(self) -> None:
        """As Session.reset."""
        reply = await self._call("ResetSession", wire.ResetSessionRequest(session_id=self.id))
        self._progress.stands_at(reply.session.step_index)

    async def close(self) -> None:
        """As Session.close."""
        with suppress(SessionGone):  # which is what is wanted
            await self._call("DeleteSession", wire.DeleteSessionRequest(session_id=self.id), CLOSE_SECONDS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except StatecellError as failure:
            if error is None:
                raise
            error.add_note(f"the session {self.id} could not be deleted either: {failure}")

    async def _call(self, rpc: str, request: Any, timeout: float | None = None) -> Any:
        return await self._connection.call(rpc, request, self._route, self.id, timeout)

    async def _advance(self, inputs: Inputs) -> dict[str, Array]:
        """One Step. The outputs are read-only."""
        tensors = inputs.pack()
        self._progress.begin(tensors)
        try:
            request = wire.StepRequest(session_id=self.id, inputs=tensors, step_index=self.step_index)
            reply = await self._call("Step", request)
        except BaseException as error:
            self._progress.failed(error)
            raise
        self._progress.advanced(reply.step_index)
        return self._layout.outputs(reply.outputs)

    async def _messages(self, items: AsyncIterator[Any], steps: int) -> AsyncIterator[Inputs]:
        """The steps as messages of up to `steps` of them, pulled as each message is asked for."""
        several: list[Inputs] = []
        async for item in items:
            several.append(self._layout.step(None, item) if isinstance(item, Mapping) else self._layout.step(item, {}))
            if len(several) == steps or not self._layout.stacks:
                yield self._layout.stack(several)
                several = []
        if several:
            yield self._layout.stack(several)

    async def _exchange(
        self, messages: AsyncIterator[Inputs], *, ahead: bool
    ) -> AsyncGenerator[tuple[Inputs, dict[str, Array]]]:
        """Each message with its outputs. With `ahead`, the next is made while the server works, sent before they are given."""
        stream = StepStream(self._connection, self._route, self.id, self._progress)
        try:
            message = await anext(messages, None)
            if message is not None:
                await stream.send(message.pack())
            while message is not None:
                following = await anext(messages, None) if ahead else None
                outputs = self._layout.outputs(await stream.receive())
                if following is not None:
                    await stream.send(following.pack())
                yield message, outputs
                if not ahead:
                    following = await anext(messages, None)
                    if following is not None:
                        await stream.send(following.pack())
                message = following
        except (Exception, GeneratorExit):
            if stream.waiting:  # so that it is known where the session stands
                await stream.receive()
            raise
        finally:
            stream.close()


async def each(items: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[Any]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
