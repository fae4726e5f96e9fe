"""The loop looks for the next message while one is likely to come, and sleeps otherwise."""

import asyncio
import time

from statecell_server.transport.http2.lookout import REST, SECONDS, Lookout


async def over(lookout: Lookout) -> float:
    """Seconds until it does not look any more."""
    began = time.perf_counter()
    while lookout.looking:
        assert time.perf_counter() < began + 10, "it looks for ever"
        await asyncio.sleep(0)
    return time.perf_counter() - began


async def test_it_looks_after_an_answer_and_not_for_ever() -> None:
    lookout = Lookout()
    assert not lookout.looking
    lookout.answered()
    assert lookout.looking
    assert await over(lookout) >= SECONDS / 2


async def test_a_message_ends_the_look_and_the_next_answer_begins_another() -> None:
    lookout = Lookout()
    for _ in range(3 * REST):
        lookout.answered()
        lookout.heard()
        await over(lookout)
        lookout.answered()
        assert lookout.looking, "messages came, so it is worth looking"
        lookout.heard()
        await over(lookout)


async def test_after_a_look_in_vain_some_answers_are_followed_by_none() -> None:
    lookout = Lookout()
    lookout.answered()
    await over(lookout)
    for _ in range(REST):
        lookout.answered()
        assert not lookout.looking
    lookout.answered()
    assert lookout.looking


async def test_many_answers_share_a_look() -> None:
    lookout = Lookout()
    for _ in range(100):
        lookout.answered()
    await over(lookout)
    lookout.answered()
    assert not lookout.looking, "it was one look, in vain"
