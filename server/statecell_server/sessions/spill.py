"""Spill: states of idle sessions leave the arena for the host's memory when others need their rows."""

from statecell_server.arena.arena import INITIAL_SLOT, StateArena
from statecell_server.sessions.table import Residents

LEAST = 64
"""Rows spilled at once at least: finding who is idle costs a look at every session."""


def spill(arena: StateArena, sessions: Residents, rows: int) -> None:
    """Moves the states of idle sessions, the longest idle first, until `rows` rows are free or nobody is idle.

    A spilled session is one that has `loaded` states, as after a restore: its next step brings them back.
    """
    idle = [s for s in sessions if s.slots and s.slots[0] != INITIAL_SLOT and not s.pending]
    wanted = max(rows, LEAST)
    for session in sorted(idle, key=lambda s: s.used):
        if wanted <= 0:
            break
        wanted -= session.batch
        states = arena.read(session.slots)
        arena.free(session.slots)
        session.load(states)
        sessions.spilled += 1
