"""Runner: one version of one model, and all that keeps it running."""

import logging
from collections.abc import Callable

import numpy as np
from statecell.tensor import Array

from statecell_server.batching.executor import Executor
from statecell_server.batching.inputs import InputCheck
from statecell_server.batching.journal import Journal, Stamp
from statecell_server.batching.launcher import Launcher
from statecell_server.batching.ledger import Ledger
from statecell_server.batching.scheduler import Scheduler
from statecell_server.batching.step import Step
from statecell_server.config import Config
from statecell_server.durability.store import StateStore
from statecell_server.errors import StatecellError
from statecell_server.runtimes.invariance import Sharing, decide
from statecell_server.runtimes.runtime import Runtime, most_rows
from statecell_server.sessions.reply import Replies
from statecell_server.sessions.session import INITIAL, Home, Session
from statecell_server.sessions.table import Residents, Sessions

log = logging.getLogger(__name__)

STORE_BATCHES = 4
"""Batches whose results may be on their way to the store while others run."""


class Runner:
    """A runtime, the arena with its sessions' states, and how steps get through them: scheduler, launcher, executor, ledger.

    The event loop owns sessions, scheduler and slots; the executor sees one Batch at a time and writes only to slots that no
    session names yet. That is what makes a failed, cancelled or refused step leave the state as it was.
    """

    def __init__(
        self,
        name: str,
        version: str,
        runtime: Runtime,
        config: Config,
        store: StateStore | None,
        sessions: Sessions,
        lost: Callable[[str], None],
        sharing: Sharing | None = None,
    ) -> None:
        """`sessions`: all that the server has. `lost` is called, by any thread, where the model's device breaks.

        `sharing`: as it was measured before; None: it is measured now. Raises LoadError, StateBudgetExceeded.
        """
        max_batch = most_rows(runtime.spec, config.max_batch, config.state_memory)
        self.name = name
        self.version = version
        self.spec = runtime.spec
        self.runtime = runtime
        self.check = InputCheck(self.spec)
        self.output_names = [t.name for t in self.spec.outputs]
        self.sharing = sharing or decide(runtime, config.batch_variance, max_batch)
        self.arena = runtime.arena(config.state_memory, max_batch * (1 if store is None else STORE_BATCHES))
        stamp = Stamp(name, version, runtime.digest, sessions.mark)
        self.journal = (
            None if store is None else Journal(store, stamp, self.spec, self.arena, config.save_every, config.max_record)
        )
        self.scheduler = Scheduler(
            self.spec, sessions.budget, self.sharing.max_batch, config.max_queue, self.sharing.run_length
        )
        self.finite = config.non_finite == "refuse"  # of inputs and states that clients send
        self.replies = Replies(self.spec.outputs)
        self.max_answer = config.max_message
        self.home = Home(name, version, self.replies, config.session_ttl)
        self.sessions = Residents(sessions, self.home)
        self.capacity = self.arena.budget + config.spill_memory // max(self.arena.row_bytes, 1)
        executor = Executor(runtime, self.arena, self.replies, self.sharing.min_batch, finite=self.finite)
        on_loop = runtime.device == "cpu"  # while a GPU runs, the loop has better things to do than to wait for it
        self.launcher = Launcher(
            f"{name}-{version}", self.scheduler, executor, self.arena, self.sessions, lost, on_loop=on_loop
        )
        self._ledger = Ledger(self.arena, sessions.budget, self.scheduler, self.journal, self.launcher.wake)

    @property
    def note(self) -> str:
        """What to know of the device and of what runs together."""
        return "; ".join(filter(None, (self.runtime.note, self.sharing.note)))

    def start(self) -> None:
        """On the event loop that is to own it."""
        self.launcher.start(self._ledger)

    def stop(self) -> None:
        """After the last step; waits for the compute thread."""
        self.launcher.stop()
        sizes = " ".join(f"{rows}x{runs}" for rows, runs in sorted(self.launcher.batches.items()))
        log.info("%s/%s ran batches of (rows x runs): %s", self.name, self.version, sizes or "none")

    def submit(self, step: Step) -> None:
        """Raises QueueFull."""
        self.launcher.submit(step)

    async def write_every_step(self) -> None:
        """From now on each step is in the store before it is answered; returns when no other is on its way."""
        if self.journal is not None:
            self.journal.every = 1
            await self._ledger.written()

    def drop(self, step: Step) -> None:
        """Nobody waits for the step any more. Where it runs right now, its result will be thrown away."""
        if not step.finished and not step.running:
            self._ledger.commit([step])

    def abandon(self, session: Session, error: StatecellError) -> None:
        """The session's state was set from outside or is gone: what it has in flight is not to be applied."""
        for step in self.scheduler.lines.of(session):
            step.fail(session, error)

    def state(self, session: Session) -> list[Array]:
        """A copy of the session's committed state, in the spec's order."""
        return [np.array(a) for a in session.loaded] if session.loaded is not None else self.arena.read(session.slots)

    def release(self, session: Session) -> None:
        """Gives the session's rows back."""
        self.arena.free(session.slots)
        session.slots, session.loaded = INITIAL * session.batch, None

    def enter(self, session: Session) -> None:
        """The session is here from now on."""
        self.sessions.add(session)

    def leave(self, session: Session, error: StatecellError) -> None:
        """The session is here no more; `error` tells those who wait for it."""
        self.abandon(session, error)
        self.release(session)
        self.forget(session)

    def forget(self, session: Session) -> None:
        """It no longer counts."""
        self.sessions.remove(session)
