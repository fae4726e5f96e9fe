"""Owner: which of a server's workers a session lives in, as its id says."""

from zlib import crc32

from statecell_server.sessions.session import DURABLE

MARK = 8
"""Characters that an id in memory begins with: those of the process that issued it."""


def owner(session_id: str, workers: int) -> int:
    """0 to `workers` - 1. Ids with the mark of one process have one owner, a sequence the same whether it is durable or not."""
    name = session_id.removeprefix(DURABLE)
    if session_id is name and not name.startswith("sequence/"):
        name = session_id[:MARK]
    return crc32(name.encode()) % workers
