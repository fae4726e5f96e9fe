"""AsyncClient: the same code under asyncio."""

import asyncio
import inspect
from collections.abc import AsyncIterator

import numpy as np
import pytest
import torch
from statecell_client import (
    AsyncClient,
    AsyncSession,
    Client,
    NonFiniteInput,
    Retry,
    ServerUnreachable,
    Session,
    SessionNotFound,
    StepInFlight,
    StepUnsettled,
)

from tests.clients.proxy import proxy_to

XS = np.random.default_rng(0).standard_normal((300, 10)).astype(np.float32)


@pytest.fixture
async def client(address: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(address) as client:
        yield client


def test_both_clients_have_the_same_calls() -> None:
    for blocking, asynchronous in ((Client, AsyncClient), (Session, AsyncSession)):
        one, other = calls_of(blocking), calls_of(asynchronous)
        assert one == other


def calls_of(kind: type) -> dict[str, list[str]]:
    functions = inspect.getmembers(kind, inspect.isfunction)
    return {name: list(inspect.signature(call).parameters) for name, call in functions if not name.startswith("_")}


async def test_every_way_of_stepping_gives_the_bits_of_the_blocking_client(client: AsyncClient, address: str) -> None:
    with Client(address) as blocking, blocking.session("lstm") as one:
        want = one.run(XS[:, None])[:, 0]

    async def ticks() -> AsyncIterator[np.ndarray[tuple[int], np.dtype[np.float32]]]:
        for x in XS:
            yield x

    async with client.session("lstm") as session:
        np.testing.assert_array_equal([await session.step(x) for x in XS], want)
        await session.reset()
        np.testing.assert_array_equal((await session.run(XS[:, None]))[:, 0], want)
        await session.reset()
        np.testing.assert_array_equal([y async for y in session.stream(ticks())], want)
        await session.reset()
        np.testing.assert_array_equal([y async for y in session.stream(XS)], want)
        assert session.step_index == 300
        assert list((await session.state).keys()) == ["h_0", "c_0"]


async def test_a_session_is_awaited_or_entered_forked_and_closed(client: AsyncClient) -> None:
    session = await client.session("lstm")
    await session.step(XS[0])
    twin, (one, two) = await session.fork(), await session.fork(2)
    restored = await client.session("lstm", snapshot=await session.snapshot())
    attached = await client.attach(session.id)
    assert attached.step_index == 1
    want = await session.step(XS[1])
    for other in (twin, one, two, restored):
        np.testing.assert_array_equal(await other.step(XS[1]), want)
        await other.close()
    async with client.session("lstm", state=await session.state) as again:
        assert len(await client.sessions("lstm")) >= 2
        await again.step(XS[0])
    with pytest.raises(SessionNotFound):
        await again.step(XS[0])
    await session.close()


async def test_modules_are_awaited(client: AsyncClient) -> None:
    out, (h_n, _) = await client.lstm("lstm")(torch.zeros(5, 3, 10))
    h_1, _ = await client.lstm_cell("lstm_cell")(torch.zeros(10))
    assert (out.shape, h_n.shape, h_1.shape) == ((5, 3, 20), (2, 3, 20), (20,))
    assert (await client.gru("gru")(torch.zeros(5, 4)))[1].shape == (1, 6)
    assert (await client.infer("lstm", x=np.zeros((2, 1, 10))))["y"].shape == (2, 1, 20)


async def test_many_sessions_at_once_do_not_mix(client: AsyncClient) -> None:
    async def one(number: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        async with client.session("lstm") as session:
            return np.stack([await session.step(x) for x in XS[number : number + 20]])

    answers = await asyncio.gather(*(one(number) for number in range(30)))
    for number, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, await one(number))


async def test_two_steps_of_one_session_at_once_are_refused(client: AsyncClient) -> None:
    async with client.session("lstm") as session:
        answers = await asyncio.gather(session.step(XS[0]), session.step(XS[0]), return_exceptions=True)
        assert isinstance(answers[1], StepInFlight)
        assert session.step_index == 1


async def test_a_cancelled_step_may_be_repeated_and_counts_once(client: AsyncClient) -> None:
    async with client.session("lstm") as session, client.session("lstm") as other:
        step = asyncio.create_task(session.step(XS[0]))
        await asyncio.sleep(0)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        with pytest.raises(StepUnsettled):
            await session.step(XS[1])
        np.testing.assert_array_equal(await session.step(XS[0]), await other.step(XS[0]))
        assert session.step_index == 1


async def test_errors_are_the_same(client: AsyncClient) -> None:
    async with client.session("lstm") as session:
        with pytest.raises(NonFiniteInput) as caught:
            await session.step(np.full(10, np.nan))
        assert caught.value.metadata["field"] == "x"
        with pytest.raises(NonFiniteInput):
            _ = [y async for y in session.stream(np.full((3, 10), np.nan))]
        await session.step(XS[0])
    with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:1 "):
        await AsyncClient("127.0.0.1:1").models()


@pytest.mark.parametrize("ahead", [1, 8])
async def test_a_stream_that_breaks_goes_on_as_if_nothing_had_been(address: str, ahead: int) -> None:
    quick = Retry(timeout=10, first_pause=0.01, longest_pause=0.05)
    with proxy_to(address) as proxy:
        async with AsyncClient(proxy.address, retry=quick) as client, client.session("lstm") as session:
            whole = await client.infer("lstm", x=XS[:, None])
            answers = []
            async for y in session.stream(XS, ahead=ahead):
                answers.append(y)
                if len(answers) % 50 == 20:
                    proxy.lose_the_reply()
                if len(answers) % 50 == 45:
                    proxy.cut()
            np.testing.assert_array_equal(answers, whole["y"][:, 0])
        assert proxy.connections >= 6
