"""Engine: everything that a client can ask for. Knows neither protobuf nor gRPC."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from statecell_server.access.state_key import NO_KEY, StateKey
from statecell_server.batching.journal import Journal
from statecell_server.batching.runner import Runner
from statecell_server.config import Config
from statecell_server.durability.store import StateStore
from statecell_server.engine.admission import Admission
from statecell_server.engine.intake import Intake
from statecell_server.engine.lifecycle import Lifecycle
from statecell_server.engine.repository import Repository
from statecell_server.engine.steps import Steps
from statecell_server.engine.takeover import Takeover
from statecell_server.sessions.budget import Budget
from statecell_server.sessions.session import Session
from statecell_server.sessions.table import Sessions

log = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
"""After which an idle session that is ahead of the store is brought there."""


class Engine:
    """Models, sessions and steps. All methods belong to the event loop."""

    def __init__(
        self,
        config: Config,
        store: StateStore | None = None,
        changed: Callable[[], None] = lambda: None,
        lost: Callable[[str], None] = log.critical,
        state_key: StateKey = NO_KEY,
    ) -> None:
        """Loads the models. `changed` is called when there are others, `lost`, by any thread, when a device breaks.

        `state_key`: what snapshots are sealed by; the store seals its records itself.

        Raises runtime.LoadError.
        """
        self.sessions = Sessions(config.longest_ttl, Budget(config.session_memory), config.worker, config.workers)
        self.models = Repository(config, store, self.sessions, lost)
        self._config = config
        self._changed = changed
        self._admission = Admission(self.sessions)
        self._takeover = Takeover(store, self.sessions, self.models, self._admission.enter) if store is not None else None
        intake = Intake(self.sessions, self.models, self._takeover)
        self.steps = Steps(self.models, intake, self._takeover, self.sessions.now)
        self.lifecycle = Lifecycle(self.sessions, self.models, self._admission, self._takeover, state_key)
        self.taken = 0  # sessions taken over from other servers
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self.models.start(self._changed)
        self._tasks.append(asyncio.create_task(self._sweep()))
        if self._config.poll_models:
            self._tasks.append(asyncio.create_task(self._poll()))

    async def drain(self) -> None:
        """No new sessions from now on. Durable ones are brought to the store, and when it has them, sent to other servers."""
        self._admission.closed = True
        # A step of many sessions may be on its way to the store for some of them, and move the others on when it is there.
        await asyncio.gather(*[runner.write_every_step() for runner in self.models])
        await self._saved()
        self._save(s for s in self.sessions if s.ahead)
        for error in await self._saved():
            if error is not None:  # their states cannot be read: the store has them as of their last record
                log.error("durable sessions go on from their last records: %s", error)
        self.steps.handed_over = True

    async def _saved(self) -> list[BaseException | None]:
        """When the saving that has begun is over; what went wrong."""
        saving = {s.saving for s in self.sessions if s.saving is not None}
        return await asyncio.gather(*saving, return_exceptions=True)

    async def stop(self) -> None:
        """After the last call was answered."""
        for task in self._tasks:
            task.cancel()
        self.models.stop()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1)
            try:
                self._sweep_once(time.time())
            except Exception:
                log.exception("a look for idle sessions failed; the next one is in a second")

    def _sweep_once(self, now: float) -> None:
        for session in self.sessions.expire(now):
            runner = self.models.of(session)
            runner.sessions.expired += 1
            runner.leave(session, self.sessions.absent(session.id))
        if self._config.save_every > 1:
            self._save(s for s in self.sessions if s.ahead and not s.pending and now - s.used > IDLE_SECONDS)
        if self._takeover is not None and self._takeover.taken:
            log.info("took over %d sessions from other servers", self._takeover.taken)
            self.taken += self._takeover.taken
            self._takeover.taken = 0

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._config.poll_models)
            try:
                if await self.models.refresh(self._users):
                    self._changed()
            except Exception:
                log.exception("a look for new versions of models failed; the next one is in %g s", self._config.poll_models)

    def _save(self, sessions: Iterable[Session]) -> "list[asyncio.Task[None]]":
        """Writes sessions that are ahead of the store to it, one round trip a model."""
        groups: dict[Journal, list[Session]] = {}
        for session in sessions:
            journal = self.models.of(session).journal
            if journal is not None and session.saving is None:
                groups.setdefault(journal, []).append(session)
        return [journal.start_saving(group) for journal, group in groups.items()]

    @property
    def draining(self) -> bool:
        """Whether the server is about to stop."""
        return self._admission.closed

    @staticmethod
    def _users(runner: Runner) -> int:
        return runner.scheduler.waiting + len(runner.sessions)

    async def load(self, model: str) -> None:
        """Takes in the model's versions that are in the folder. Raises ModelNotFound, ModelRefused."""
        try:
            await self.models.load(model)
        finally:
            self._changed()

    async def unload(self, model: str) -> None:
        """Raises ModelNotFound, ModelInUse."""
        await self.models.unload(model, self._users)
        self._changed()
