"""Recent: the sessions that were used last, looked for now and then for all who watch."""

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from statecell_server.access.caller import owner_tag
from statecell_server.page.history import Key
from statecell_server.sessions.session import Session

MOST = 50
"""Sessions of one version."""
AT_ONCE = 512
"""Sessions that are looked at in one turn of the event loop."""
REST = 200
"""A look is followed by a pause of as many times what it took: half a percent of the event loop."""
LEAST_SECONDS, MOST_SECONDS = 1.0, 30.0


class Recent:
    """`await recent.of(("lstm", "1"))`. Belongs to the event loop."""

    def __init__(self, sessions: Iterable[Session], now: Callable[[], float]) -> None:
        """`now`: the clock of the sessions' times."""
        self._sessions = sessions
        self._now = now
        self._found: dict[tuple[Key, str], tuple[list[dict[str, Any]], int]] = {}
        self._next = 0.0  # look, by the loop's clock
        self._lock = asyncio.Lock()

    async def of(self, key: Key, owner: str = "") -> tuple[list[dict[str, Any]], int]:
        """Those of the version, the last used first, as the page has them, and how many there are; as of the last look.

        `owner`: the tag of whose they are to be; "": whosever they are.
        """
        async with self._lock:
            if asyncio.get_running_loop().time() >= self._next:
                await self._look()
        return self._found.get((key, owner), ([], 0))

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        heaps: dict[tuple[Key, str], list[tuple[float, int, Session]]] = {}
        counts: Counter[tuple[Key, str]] = Counter()
        rest, spent, number = iter(self._sessions), 0.0, 0
        while True:
            began = loop.time()
            some = list(islice(rest, AT_ONCE))
            for session in some:
                number += 1
                for owner in {"", owner_tag(session.id)}:
                    key = (session.model, session.version), owner
                    counts[key] += 1
                    heap = heaps.setdefault(key, [])
                    if len(heap) < MOST:
                        heapq.heappush(heap, (session.used, number, session))
                    elif session.used > heap[0][0]:
                        heapq.heapreplace(heap, (session.used, number, session))
            spent += loop.time() - began
            if not some:
                break
            await asyncio.sleep(0)
        now = self._now()
        self._found = {
            key: ([_line(s, now) for _, _, s in sorted(heap, reverse=True)], counts[key]) for key, heap in heaps.items()
        }
        self._next = loop.time() + min(max(LEAST_SECONDS, REST * spent), MOST_SECONDS)


def _line(session: Session, now: float) -> dict[str, Any]:
    return {
        "id": session.id,
        "state": state_of(session),
        "batch": session.batch,
        "durable": session.durable,
        "step_index": session.step_index,
        "age": round(now - session.created, 1),
        "idle": round(max(now - session.used, 0.0), 1),
    }


def state_of(session: Session) -> str:
    """As statecell_sessions has it."""
    return "stepping" if session.pending else "idle" if session.loaded is None else "spilled"
