"""Server-sent events, so few of them that a step does not notice: nothing waits here for a reader."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.responses import StreamingResponse

from statecell_server.page.assets import HEADERS

WATCHERS = 8
"""Streams at once. An event is made when the one before was taken, so each keeps one at most, and what its socket takes."""
FRAMES = 20.0
"""Looks at states in a second, of all streams together; a page that watches a session has two."""


class Watchers:
    """`with watchers.one():` around a stream."""

    def __init__(self) -> None:
        self.count = 0

    @property
    def full(self) -> bool:
        return self.count >= WATCHERS

    @property
    def interval(self) -> float:
        """Seconds between two looks of one of them."""
        return max(self.count, 1) / FRAMES

    @contextmanager
    def one(self) -> Iterator[None]:
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


def event(kind: str, content: Any) -> bytes:
    """One event. JSON has no line ends, so it is one line of data."""
    return f"event: {kind}\ndata: {json.dumps(content, separators=(',', ':'))}\n\n".encode()


def stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    """Until they end, or the client goes."""
    headers = {**HEADERS, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)
