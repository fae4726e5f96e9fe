"""The loop looks for the next message while one is likely to come, and sleeps otherwise."""

import asyncio
import time

from statecell_server.transport.http2.busy_poll import REST, SECONDS, BusyPoll


async def over(poll: BusyPoll) -> float:
    """Seconds until it does not look any more."""
    began = time.perf_counter()
    while poll.looking:
        assert time.perf_counter() < began + 10, "it looks for ever"
        await asyncio.sleep(0)
    return time.perf_counter() - began


async def test_it_looks_after_an_answer_and_not_for_ever() -> None:
    poll = BusyPoll()
    assert not poll.looking
    poll.answered()
    assert poll.looking
    assert await over(poll) >= SECONDS / 2


async def test_a_message_ends_the_look_and_the_next_answer_begins_another() -> None:
    poll = BusyPoll()
    for _ in range(3 * REST):
        poll.answered()
        poll.heard()
        await over(poll)
        poll.answered()
        assert poll.looking, "messages came, so it is worth looking"
        poll.heard()
        await over(poll)


async def test_after_a_look_in_vain_some_answers_are_followed_by_none() -> None:
    poll = BusyPoll()
    poll.answered()
    await over(poll)
    for _ in range(REST):
        poll.answered()
        assert not poll.looking
    poll.answered()
    assert poll.looking


async def test_many_answers_share_a_look() -> None:
    poll = BusyPoll()
    for _ in range(100):
        poll.answered()
    await over(poll)
    poll.answered()
    assert not poll.looking, "it was one look, in vain"
