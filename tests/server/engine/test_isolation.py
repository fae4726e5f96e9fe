"""What is shared fails alone: one member of eight fails at every stage, and the other seven are as exact as without it."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from statecell.tensor import Array
from statecell_server.config import Config
from statecell_server.durability.store import MemoryStore, Write
from statecell_server.engine.engine import Engine
from statecell_server.engine.ticket import Ticket
from statecell_server.errors import (
    InternalError,
    InvalidRequest,
    NonFiniteInput,
    SessionNotFound,
    StatecellError,
    StoreFull,
    StoreUnavailable,
)
from statecell_server.sessions.session import LAST_INDEX, Session

MEMBERS, VICTIM = 8, 5
X = np.random.default_rng(3).standard_normal((4, MEMBERS, 10), np.float32)
"""[steps, batch, input_size]"""


Found = dict[int, Array | StatecellError]
"""What came of each member's step: its output [1, 1, hidden_size], or why there is none."""


class PickyStore(MemoryStore):
    """Has an `error` for one session's writes."""

    def __init__(self) -> None:
        super().__init__(ttl=60)
        self.victim = ""
        self.error: StatecellError | None = None

    async def write(self, writes: Sequence[Write]) -> list[StatecellError | None]:
        sound = iter(await super().write([w for w in writes if w.session_id != self.victim]))
        return [self.error if w.session_id == self.victim else next(sound) for w in writes]


class Eight:
    """Sessions that are stepped at once."""

    def __init__(self, engine: Engine, sessions: list[Session], store: PickyStore) -> None:
        self.engine, self.sessions, self.store = engine, sessions, store
        self.victim = sessions[VICTIM]
        self.clumsy = False  # the victim's caller fails where it is told

    async def together(self, x: Array) -> Found:
        """One message for all."""
        over: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
        ids, indexes = [s.id for s in self.sessions], [s.step_index for s in self.sessions]
        self.engine.steps.submit(ids, {"x": x}, indexes, over.set_result)
        await self.begun()
        ticket = await over
        positions, outputs, _ = ticket.outcome()
        return {p: outputs[0][:, i : i + 1] for i, p in enumerate(positions)} | ticket.errors

    async def apart(self, x: Array) -> Found:
        """A message for each in one turn of the loop: the server puts them together."""

        async def one(position: int) -> Array | StatecellError:
            session = self.sessions[position]
            try:
                step = self.engine.steps.step(session.id, {"x": x[:, position : position + 1]}, session.step_index)
                y: Array = (await step)[0]["y"]
                return y
            except StatecellError as error:
                return error

        tasks = [asyncio.create_task(one(position)) for position in range(MEMBERS)]
        await self.begun()
        return dict(enumerate(await asyncio.gather(*tasks)))

    async def gathered(self, x: Array) -> Found:
        """As the servicers do with messages of one row."""
        callers = [Caller(self.clumsy and position == VICTIM) for position in range(MEMBERS)]
        found: Found = {}
        for position, session in enumerate(self.sessions):
            if self.engine.steps.gather(session, session.step_index, x[0, position].tobytes(), callers[position]) is None:
                found[position] = InvalidRequest("it is none of those that are gathered")
        await self.begun()
        return {position: await caller.told for position, caller in enumerate(callers) if position not in found} | found

    async def begun(self) -> None:
        """What a test does while the steps are in flight."""
        await asyncio.sleep(0)


class Caller:
    """Of one row."""

    def __init__(self, clumsy: bool) -> None:
        self.told: asyncio.Future[Array | StatecellError] = asyncio.get_running_loop().create_future()
        self._clumsy = clumsy

    def moved(self, reply: bytes, _: int) -> None:
        self.told.set_result(np.frombuffer(reply, np.float32).reshape(1, 1, -1))
        if self._clumsy:
            raise RuntimeError("its caller's own failure")

    def refused(self, error: StatecellError) -> None:
        self.told.set_result(error)


Way = Callable[[Eight, Array], Awaitable[Found]]
WAYS = [Eight.together, Eight.apart, Eight.gathered]


@asynccontextmanager
async def eight(lstm_only: Path, *, durable: bool = False) -> AsyncIterator[Eight]:
    store = PickyStore()
    engine = Engine(Config(models=lstm_only), store)
    await engine.start()
    yield Eight(engine, [await engine.lifecycle.create("lstm", durable=durable) for _ in range(MEMBERS)], store)
    await engine.stop()


async def fails_alone(they: Eight, way: Way, harm: Callable[[], Array | None]) -> Array | StatecellError:
    """A step of all, one in which the victim fails by `harm` (which may give other inputs), and one more. Its outcome."""
    reference = await they.engine.lifecycle.create("lstm", batch=MEMBERS)
    used = they.engine.models.of(reference).arena.used
    outcome: Array | StatecellError | None = None
    for t, x in enumerate(X):
        want = (await they.engine.steps.step(reference.id, {"x": x[None]}, t))[0]["y"]
        given = harm() if t == 1 else None
        found = await way(they, x[None] if given is None else given)
        for position, session in enumerate(they.sessions):
            if position != VICTIM:
                np.testing.assert_array_equal(found[position], want[:, position : position + 1])
                assert session.step_index == t + 1
        if t == 1:
            outcome = found[VICTIM]
            they.sessions[VICTIM] = await they.engine.lifecycle.create("lstm")  # the others go on beside a stranger
    assert outcome is not None
    for session in they.sessions:
        assert session.pending == 0
    assert they.engine.models.of(reference).scheduler.waiting == 0
    assert they.engine.models.of(reference).arena.used <= used + MEMBERS + 2 * MEMBERS
    return outcome


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("durable", [False, True])
async def test_by_its_input(lstm_only: Path, way: Way, durable: bool) -> None:
    async with eight(lstm_only, durable=durable) as they:

        def harm() -> Array:
            x: Array = X[1][None].copy()
            x[0, VICTIM, 3] = np.inf
            return x

        assert isinstance(await fails_alone(they, way, harm), NonFiniteInput)
        assert they.victim.step_index == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("durable", [False, True])
async def test_at_the_end_of_its_indexes(lstm_only: Path, way: Way, durable: bool) -> None:
    async with eight(lstm_only, durable=durable) as they:

        def harm() -> None:
            they.victim.step_index = LAST_INDEX + 1

        error = await fails_alone(they, way, harm)
        assert isinstance(error, InvalidRequest)
        assert they.victim.step_index == LAST_INDEX + 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", [StoreFull("no room"), StoreUnavailable("gone")], ids=["full", "unavailable"])
async def test_by_its_write(lstm_only: Path, way: Way, error: StatecellError) -> None:
    async with eight(lstm_only, durable=True) as they:

        def harm() -> None:
            they.store.victim, they.store.error = they.victim.id, error

        assert type(await fails_alone(they, way, harm)) is type(error)
        assert they.victim.step_index == 1


@pytest.mark.parametrize("way", WAYS)
async def test_by_a_record_that_cannot_be_made(lstm_only: Path, way: Way) -> None:
    async with eight(lstm_only, durable=True) as they:

        def harm() -> None:
            they.victim.created = "yesterday"  # type: ignore[assignment]

        assert isinstance(await fails_alone(they, way, harm), InternalError)
        assert they.victim.step_index == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("durable", [False, True])
async def test_deleted_while_it_is_in_flight(lstm_only: Path, way: Way, durable: bool) -> None:
    async with eight(lstm_only, durable=durable) as they:

        def harm() -> None:
            async def delete() -> None:
                they.begun = functools.partial(asyncio.sleep, 0)  # type: ignore[method-assign]
                if way is Eight.apart:
                    await asyncio.sleep(0)  # they are in flight then
                await they.engine.lifecycle.delete(they.victim.id)

            they.begun = delete  # type: ignore[method-assign]

        assert isinstance(await fails_alone(they, way, harm), SessionNotFound)


async def test_by_its_caller(lstm_only: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with eight(lstm_only) as they:

        def harm() -> None:
            they.clumsy = True

        assert isinstance(await fails_alone(they, Eight.gathered, harm), np.ndarray)
        assert they.victim.step_index == 2
        assert "its caller's own failure" in caplog.text
