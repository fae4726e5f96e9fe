"""Admission: sessions become known where there is room for them, and idle ones make room."""

from collections.abc import Sequence

from statecell_server.batching.runner import Runner
from statecell_server.errors import Draining, StateBudgetExceeded
from statecell_server.sessions.budget import SESSION_BYTES
from statecell_server.sessions.session import Session
from statecell_server.sessions.table import Sessions


class Admission:
    """The door to the table of sessions. Belongs to the event loop."""

    def __init__(self, sessions: Sessions) -> None:
        self.closed = False  # the server is about to stop
        self._sessions = sessions

    async def found(self, sessions: Sequence[Session], runner: Runner) -> None:
        """New sessions of one model become known, here and, where they are durable, in the store. All of them or none."""
        try:
            for session in sessions:
                self.enter(session, runner)
            if runner.journal is not None and sessions[0].durable:
                for error in await runner.journal.save(sessions):
                    if error is not None:
                        raise error
        except BaseException:
            for session in sessions:
                runner.release(session)
                if self._sessions.known(session.id) is session:
                    self._sessions.remove(session)
                    runner.forget(session)
            raise

    @staticmethod
    def check_room(runner: Runner, rows: int) -> None:
        """Whether so many rows could be held at all, before anything is made for them. Raises StateBudgetExceeded."""
        if rows > runner.capacity:
            raise StateBudgetExceeded(
                f"{rows} rows of state would exceed the {runner.capacity} that fit into --state-memory and --spill-memory; "
                "ask for fewer, or serve with more of either",
                ever=False,
                model=runner.name,
            )

    def enter(self, session: Session, runner: Runner) -> Session:
        """The session becomes known here. Raises Draining, StateBudgetExceeded."""
        if self.closed:
            raise Draining("the server is about to stop and takes no new sessions")
        self.check_room(runner, session.batch)
        self._sessions.budget.check(SESSION_BYTES + len(session.id) + len(session.reply))
        held = runner.sessions.rows
        excess = held + session.batch - runner.capacity
        if excess > 0 and not self._make_room(runner, excess):
            raise StateBudgetExceeded(
                f"{held} rows of state are held, {session.batch} more would exceed the {runner.capacity} that fit "
                "into --state-memory and --spill-memory",
                model=runner.name,
            )
        runner.enter(session)
        self._sessions.add(session)
        return session

    def _make_room(self, runner: Runner, rows: int) -> bool:
        """Lets go of idle durable sessions, the longest idle first: their next step loads them from the store."""
        idle = [s for s in runner.sessions if s.durable and s.fence and not (s.ahead or s.pending)]
        if sum(s.batch for s in idle) < rows:
            return False
        for session in sorted(idle, key=lambda s: s.used):
            if rows <= 0:
                break
            rows -= session.batch
            self._sessions.remove(session)
            runner.sessions.evicted += 1
            runner.leave(session, self._sessions.absent(session.id))
        return True
