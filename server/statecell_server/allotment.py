"""Allotment: the slots of a step's next run."""

from collections.abc import Iterable

from statecell.tensor import Array

from statecell_server.arena import StateArena
from statecell_server.scheduler import Step
from statecell_server.sessions import Session
from statecell_server.spill import spill


def allot(step: Step, arena: StateArena, sessions: Iterable[Session]) -> None:
    """Sets what the run reads, what it writes, and what nobody needs when it is over.

    It never writes to what it reads, so that one that fails half way can be made again. `sessions`: all that the arena serves;
    idle ones make room where there is none. Raises StateBudgetExceeded, and then the step is as it was.
    """
    rows = step.inputs.rows
    if step.done:
        step.sources, step.slots = step.slots, _allocate(arena, rows, sessions)
        step.spent, step.loads = step.sources, ()
        return
    sources: list[int] = []
    loaded: list[tuple[int, int, list[Array]]] = []  # first row, rows, states
    for session in step.sessions:
        if session.loaded is not None:
            loaded.append((len(sources), session.batch, session.loaded))
        sources += session.slots
    slots = _allocate(arena, rows + sum(count for _, count, _ in loaded), sessions)
    if loaded:
        slots, spare = slots[:rows], slots[rows:]
        step.spent, loads = spare, []
        for row, count, states in loaded:
            sources[row : row + count], spare = spare[:count], spare[count:]
            loads.append((sources[row : row + count], states))
        step.loads = loads
    step.sources, step.slots = sources, slots


def _allocate(arena: StateArena, rows: int, sessions: Iterable[Session]) -> list[int]:
    if arena.room < rows:
        spill(arena, sessions, rows - arena.room)
    return arena.allocate(rows)
