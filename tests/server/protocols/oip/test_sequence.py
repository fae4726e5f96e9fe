"""Requests of one sequence take their turns."""

import asyncio

import pytest
from statecell_server.protocols.oip.sequence import Sequence
from statecell_server.sessions.budget import Budget


async def request(sequence: Sequence, name: str, taken: list[str]) -> None:
    if sequence.busy:
        await sequence.wait()
    sequence.busy = True
    try:
        taken.append(name)
        await asyncio.sleep(0)
    finally:
        sequence.leave()


async def test_requests_take_their_turns_in_the_order_of_their_arrival() -> None:
    sequence, taken = Sequence("s", Budget(1 << 20)), list[str]()
    await asyncio.gather(*(request(sequence, name, taken) for name in "abcde"))
    assert taken == list("abcde")
    assert not sequence.busy


@pytest.mark.parametrize("turns", range(6))
async def test_a_request_that_is_cancelled_stands_in_nobodys_way(turns: int) -> None:
    """Whether it waits, its turn has just come, or it is there: at any turn of the loop."""
    sequence, taken = Sequence("s", Budget(1 << 20)), list[str]()
    tasks = [asyncio.create_task(request(sequence, name, taken)) for name in "abc"]
    for _ in range(turns):
        await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.wait(tasks, timeout=5)
    assert [name for name in taken if name != "b"] == ["a", "c"]
    assert not sequence.busy


async def test_who_comes_while_a_turn_is_passed_on_stands_behind() -> None:
    sequence, taken = Sequence("s", Budget(1 << 20)), list[str]()
    sequence.busy = True
    waiting = asyncio.create_task(request(sequence, "first", taken))
    await asyncio.sleep(0)
    sequence.leave()  # the waiting one's turn has come, and it does not know yet
    await asyncio.gather(request(sequence, "second", taken), waiting)
    assert taken == ["first", "second"]
