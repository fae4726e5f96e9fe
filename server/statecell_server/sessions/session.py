"""Session: one client's recurrence."""

import asyncio
import time
from dataclasses import dataclass, field

from statecell.tensor import Array

from statecell_server.arena.arena import INITIAL_SLOT
from statecell_server.durability.record import step_index_of
from statecell_server.sessions.reply import Replies, Reply

DURABLE = "durable-"
"""How the id of a durable session begins: only those are looked for in the store."""
LAST_INDEX = 1 << 62
"""No session steps on from there: a step_index is an int64, and a request may have many time steps."""
INITIAL = (INITIAL_SLOT,)
"""The slots of a session of one row that has not stepped yet; times one, it is the same tuple for all of them."""


@dataclass(slots=True, eq=False, frozen=True)
class Home:
    """What a session knows of the model that it belongs to. Two versions of a model are two homes."""

    name: str
    version: str
    replies: Replies
    ttl: float
    """Seconds after which an idle session of it is dropped."""


@dataclass(slots=True, eq=False)
class Session:
    """The state is in `slots`; or in `loaded` until the next step brings it into the arena, and then it has no slots."""

    id: str
    home: Home
    batch: int = 1
    durable: bool = False
    number: int = 0  # in the order of creation; given when the sessions are first listed
    step_index: int = 0
    slots: tuple[int, ...] = ()
    loaded: list[Array] | None = None
    pending: int = 0  # steps of it that are in flight: see batching.lines
    replied: int = 0  # time steps of the last request, if its reply is kept
    reply: bytes = b""  # to it: see Replies
    fence: bytes = b""  # of the record in the store that this copy goes on from
    stale: bool = False  # another server has gone on from that record: this copy must be loaded again
    saving: "asyncio.Task[None] | None" = None  # a write of the committed state, outside of any step
    created: float = field(default_factory=time.time)
    used: float = 0.0

    def __post_init__(self) -> None:
        self.slots = INITIAL * self.batch
        self.used = self.created

    @property
    def model(self) -> str:
        return self.home.name

    @property
    def version(self) -> str:
        return self.home.version

    def load(self, states: list[Array]) -> None:
        """The state is outside the arena from now on; what slots it had are the caller's to give back."""
        self.slots, self.loaded = (), states

    def fork(self, session_id: str) -> "Session":
        """A session at the same point, with the same slots: the arena must be told that they are shared."""
        fork = Session(session_id, self.home, self.batch, self.durable)
        fork.step_index, fork.slots, fork.loaded = self.step_index, self.slots, self.loaded
        return fork

    def reset(self) -> None:
        """After its slots and its reply were given back: at the start again."""
        self.step_index, self.slots, self.loaded = 0, INITIAL * self.batch, None

    @property
    def last(self) -> Reply | None:
        """The reply to the last request, if it is kept."""
        if not self.replied:
            return None
        outputs = self.home.replies.open(self.reply, self.replied, self.batch)
        return Reply(self.step_index - self.replied, self.replied, outputs)

    @property
    def ahead(self) -> int:
        """Time steps that were acknowledged and are not in the store."""
        return self.step_index - step_index_of(self.fence) if self.fence else 0
