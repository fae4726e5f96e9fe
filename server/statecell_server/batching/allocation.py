"""Allocation: the slots of a step's next run."""

from statecell.tensor import Array

from statecell_server.arena.arena import StateArena
from statecell_server.batching.step import Step
from statecell_server.sessions.spill import spill
from statecell_server.sessions.table import Residents


def allocate(step: Step, arena: StateArena, sessions: Residents) -> None:
    """Sets what the run reads, what it writes, and what nobody needs when it is over.

    It never writes to what it reads, so that one that fails half way can be made again. `sessions`: all that the arena serves;
    idle ones make room where there is none. Raises StateBudgetExceeded, and then the step is as it was.
    """
    rows = step.inputs.rows
    if step.done:
        step.sources, step.slots = step.slots, _slots(arena, rows, sessions)
        step.spent, step.loads = step.sources, ()
        return
    sources: list[int] = []
    for session in step.sessions:
        sources += session.slots
    if len(sources) == rows:
        step.sources, step.slots = sources, _slots(arena, rows, sessions)
    else:
        _allocate_loading(step, arena, sessions)


def _allocate_loading(step: Step, arena: StateArena, sessions: Residents) -> None:
    """Some of the states have to be brought into the arena, to slots of their own, before they can be read."""
    rows = step.inputs.rows
    missing = sum(session.batch for session in step.sessions if session.loaded is not None)
    slots = _slots(arena, rows + missing, sessions)
    step.slots, step.spent = slots[:rows], slots[rows:]
    sources: list[int] = []
    loads: list[tuple[list[int], list[Array]]] = []
    spare = iter(step.spent)
    for session in step.sessions:
        if session.loaded is None:
            sources += session.slots
            continue
        loads.append(([next(spare) for _ in range(session.batch)], session.loaded))
        sources += loads[-1][0]
    step.sources, step.loads = sources, loads


def _slots(arena: StateArena, rows: int, sessions: Residents) -> list[int]:
    if arena.room < rows:
        spill(arena, sessions, rows - arena.room)
    return arena.allocate(rows)
