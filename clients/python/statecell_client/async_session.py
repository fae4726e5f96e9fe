"""A session under asyncio. The blocking Session runs this very code."""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sized
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any, Self, overload

import numpy as np
from statecell.v1 import inference_pb2 as wire

from statecell_client.arrays import Array, ArrayLike
from statecell_client.connection import Connection
from statecell_client.errors import NonFiniteInput, SessionGone, StatecellError
from statecell_client.exchange import each, in_turn, messages, overlapping
from statecell_client.layout import Inputs, Layout, check_count
from statecell_client.model import Model
from statecell_client.progress import Progress
from statecell_client.retry import Route
from statecell_client.snapshot import Snapshot
from statecell_client.state import State
from statecell_client.step_stream import StepStream

MESSAGE_STEPS = 256
"""Time steps that run sends in one message at most,"""
MESSAGE_BYTES = 1 << 20
"""and bytes: the server keeps the last reply of each session."""
STREAM_STEPS = 32
"""Time steps that stream sends in one message where all inputs are there: more gain little and delay the first answer."""
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
        pieces = self._layout.cut(whole, self._message_steps)
        if len(pieces) == 1:
            return self._layout.run_answer([await self._advance(whole)], whole)
        for name, array in whole.arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():  # found before the first message advances the state
                raise NonFiniteInput(f"{name!r} holds NaN or infinity", metadata={"field": name})
        try:
            async with aclosing(overlapping(self._step_stream(), each(pieces))) as replies:
                outputs = [self._layout.outputs(tensors) async for _, tensors in replies]
        except StatecellError as error:
            error.add_note(f"the run stopped in the middle; the session stands at step_index {self.step_index}")
            raise
        return self._layout.run_answer(outputs, whole)

    async def stream(self, inputs: Iterable[Any] | AsyncIterable[Any], *, ahead: int | None = None) -> AsyncGenerator[Any]:
        """As Session.stream; `inputs` may also be an asynchronous iterable."""
        if ahead is None:
            ahead = min(STREAM_STEPS, self._message_steps) if isinstance(inputs, Sized) else 1
        if ahead < 1:
            raise ValueError(f"ahead is {ahead}, expected at least 1")
        way = in_turn if ahead == 1 else overlapping
        taken = self.step_index
        try:
            async with aclosing(way(self._step_stream(), messages(self._layout, each(inputs), ahead))) as replies:
                async for message, tensors in replies:
                    for answer in self._layout.step_answers(self._layout.outputs(tensors), message):
                        taken += 1
                        yield answer
        finally:
            self._progress.overran(self.step_index - taken)

    async def snapshot(self) -> Snapshot:
        """As Session.snapshot."""
        reply = await self._call("GetState", wire.GetStateRequest(session_id=self.id))
        self._progress.stands_at(reply.snapshot.step_index)
        return Snapshot(reply.snapshot)

    @property
    async def state(self) -> State:
        """As Session.state: `h_0, c_0 = await session.state`."""
        return (await self.snapshot()).states

    @overload
    async def fork(self) -> Self: ...
    @overload
    async def fork(self, n: int) -> list[Self]: ...
    async def fork(self, n: int | None = None) -> Self | list[Self]:
        """As Session.fork."""
        if n is not None:
            check_count("n", n)
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

    def _step_stream(self) -> StepStream:
        return StepStream(self._connection, self._route, self.id, self._progress)

    @property
    def _message_steps(self) -> int:
        return max(1, min(MESSAGE_STEPS, MESSAGE_BYTES // self._layout.step_bytes))
