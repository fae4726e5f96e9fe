"""The census: how many sessions of each model are in which state, counted a few at a time."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from itertools import islice

from statecell_server.sessions.session import Session

STATES = ("stepping", "idle", "spilled")
"""A step is in flight; the state is in the arena, or the model's initial one; it is in the host's memory beside the arena."""
AT_ONCE = 512
"""Sessions that are looked at in one turn of the event loop."""

Census = Counter[tuple[str, str, str]]
"""By model, version, and state or `durable`."""


async def take_census(sessions: Iterable[Session]) -> Census:
    """Of the sessions as they are at the beginning."""
    census: Census = Counter()
    rest = iter(sessions)
    while some := list(islice(rest, AT_ONCE)):
        for session in some:
            home = session.home
            state = "stepping" if session.pending else "idle" if session.loaded is None else "spilled"
            census[home.name, home.version, state] += 1
            if session.durable:
                census[home.name, home.version, "durable"] += 1
        await asyncio.sleep(0)
    return census
