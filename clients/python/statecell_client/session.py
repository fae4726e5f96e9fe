"""A session: one recurrence whose state the server keeps."""

from collections.abc import Generator, Iterable
from types import TracebackType
from typing import Any, Self, overload

from statecell_client.arrays import ArrayLike
from statecell_client.async_session import AsyncSession
from statecell_client.connection import iterate, run
from statecell_client.model import Model
from statecell_client.snapshot import Snapshot
from statecell_client.state import State


class Session:
    """One recurrence whose (h, c) the server keeps between calls.

        with client.session("charlm") as session:
            for token in tokens:
                logits = session.step(token)

    Leaving the block deletes it. A session takes one step at a time (StepInFlight); give each thread its own, or fork it. A
    call that the server refuses leaves the state as it was. Steps carry step_index, so what the client sends again after a lost
    reply is applied once.
    """

    def __init__(self, core: AsyncSession) -> None:
        self._core = core

    def __repr__(self) -> str:
        return repr(self._core).replace("AsyncSession", "Session")

    @property
    def id(self) -> str:
        """Issued by the server; whoever knows it can step the session."""
        return self._core.id

    @property
    def model(self) -> Model:
        """The model, in the version that the session started with."""
        return self._core.model

    @property
    def batch(self) -> int:
        """Rows that advance together."""
        return self._core.batch

    @property
    def durable(self) -> bool:
        """Whether the session outlives its server."""
        return self._core.durable

    @property
    def step_index(self) -> int:
        """Time steps consumed so far."""
        return self._core.step_index

    def step(self, x: ArrayLike = None, /, **inputs: ArrayLike) -> Any:
        """One time step: `y = session.step(x)`.

        x has no time axis: [batch, input_size], or [input_size] where the session has one row; for a model of ids [batch] or a
        number. A model with several inputs takes them by their names. The answer lies as x did, y [batch, hidden_size] or
        [hidden_size]; several outputs come as a dict by name. torch in, torch out.

        Raises ShapeMismatch, DtypeMismatch, EmptyTensor, NonFiniteInput, InvalidRequest (the input), SessionGone (the session),
        StepUnsettled, StepInFlight (the step before), QueueFull, ServerUnreachable, DeadlineExceeded (after all repetitions).
        """
        return run(self._core.step(x, **inputs))

    def run(self, xs: ArrayLike = None, /, **inputs: ArrayLike) -> Any:
        """Any number of time steps: `ys = session.run(xs)`.

        xs and ys have the model's own layout, [seq_len, batch, input_size] or [batch, seq_len, input_size]. The answer is bit
        for bit that of stepping. Long sequences are sent in messages of up to 256 steps; where one of them fails for good, the
        session stands behind the one before, and step_index tells where. Errors as of step.
        """
        return run(self._core.run(xs, **inputs))

    def stream(self, inputs: Iterable[Any], *, ahead: int | None = None) -> Generator[Any]:
        """An answer for each of the inputs, over one call: `for y in session.stream(ticks)`.

        Each item is what step takes; a dict has inputs by name.

        A generator is pulled step by step, an input when the answer before it has been taken: it may depend on that answer, and
        one that waits for its next tick delays nothing. With `ahead=N`, N inputs are pulled at a time and sent as one message,
        the next N while the server works: much faster, for sources that wait for nothing. A list or an array, whose inputs are
        all there, goes ahead by itself.

        A stream that went ahead and is closed early leaves the session further than the answers that were taken: the next
        step then raises StepUnsettled, until session.state was read. A stream that breaks is reopened and goes on. Errors as of
        step.
        """
        return iterate(self._core.stream(inputs, ahead=ahead))

    @property
    def state(self) -> State:
        """Copies of the states in the spec's order: `h_0, c_0 = session.state`; `session.state["c_0"]` by name.

        Asks the server, and so learns where the session stands after a step whose outcome was not known.
        """
        return run(self._core.state)

    def snapshot(self) -> Snapshot:
        """The whole state, to go on from later or elsewhere: `client.session("charlm", snapshot=session.snapshot())`."""
        return run(self._core.snapshot())

    @overload
    def fork(self) -> Self: ...
    @overload
    def fork(self, n: int) -> list[Self]: ...
    def fork(self, n: int | None = None) -> Self | list[Self]:
        """New sessions that go on from this one's state as it is now: `twin = session.fork()`, `a, b, c = session.fork(3)`.

        Each is to be closed by itself.
        """
        if n is None:
            return type(self)(run(self._core.fork()))
        return [type(self)(core) for core in run(self._core.fork(n))]

    def reset(self) -> None:
        """Back to the model's initial state and step_index 0."""
        run(self._core.reset())

    def close(self) -> None:
        """Deletes the session; one that is gone already is fine."""
        run(self._core.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        run(self._core.__aexit__(kind, error, trace))
