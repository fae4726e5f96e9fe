"""Shared: what the connections of a server have in common."""

import logging
from collections import Counter
from collections.abc import Mapping

from statecell_server.access.tokens import Tokens
from statecell_server.transport.http2.busy_poll import BusyPoll
from statecell_server.transport.http2.call import Method
from statecell_server.transport.http2.frames import ConnectionBroken
from statecell_server.transport.http2.memory import Memory
from statecell_server.transport.http2.token_bucket import TokenBucket
from statecell_server.transport.http2.turns import Turns
from statecell_server.transport.limits import Limits
from statecell_server.transport.watch import Watch

log = logging.getLogger(__name__)


class Complaints:
    """About clients that break the rules: a line for each, but of many in a short time their number."""

    def __init__(self) -> None:
        self._lines = TokenBucket(burst=20, rate=1)
        self._unsaid = 0
        self.closed: Counter[str] = Counter()  # all of them, by the error's name

    def about(self, error: ConnectionBroken) -> None:
        """A connection is closed for it."""
        self.closed[error.code.name] += 1
        if self._lines.spend():
            log.warning("a connection is closed: %s (%s)", error, error.code.name)
        else:
            self._unsaid += 1

    def look(self) -> None:
        """Now and then."""
        if self._unsaid:
            log.warning("%d more connections were closed because their clients broke a rule", self._unsaid)
            self._unsaid = 0


class Shared:
    """One for all of a server's connections. Belongs to the event loop."""

    def __init__(
        self, handlers: Mapping[str, Method], limits: Limits, tokens: Tokens | None = None, watch: Watch | None = None
    ) -> None:
        """`handlers`: by path. `tokens`: None: nobody is asked for one. `watch`: is told of every call."""
        self.watch = watch
        self.handlers = handlers
        self.limits = limits
        self.tokens = tokens or Tokens(None)
        self.memory = Memory(limits.memory)
        self.poll = BusyPoll()
        self.turns = Turns()
        self.complaints = Complaints()
