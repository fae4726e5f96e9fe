"""statecell watch: who steps how fast."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Table

from statecell_client.cli.common import LOCAL, AsJson, Servers, connected, console, whole
from statecell_client.model import SessionInfo

ROWS = 20
Rates = Sequence[tuple[float, SessionInfo]]
"""Time steps a second, and whose."""


def watch(
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
    count: Annotated[int, typer.Option(min=0, help="Looks to take; 0: until Ctrl-C.")] = 0,
    as_json: AsJson = False,
    server: Servers = LOCAL,
) -> None:
    """Watch the sessions step, the busiest first. Where no terminal shows it, each look is printed below the one before.

    Example: statecell watch --interval 2
    """
    before: dict[str, int] = {}
    looked, looks = time.monotonic(), 0
    # Ctrl-C is how it is meant to end.
    with suppress(KeyboardInterrupt), connected(server) as client, _shown(as_json) as show:
        while not count or looks < count:
            sessions = client.sessions()
            now = time.monotonic()
            show(_rates(sessions, before, now - looked))
            before, looked, looks = {s.id: s.step_index for s in sessions}, now, looks + 1
            if looks != count:
                time.sleep(interval)


@contextmanager
def _shown(as_json: bool) -> Iterator[Callable[[Rates], None]]:
    """What shows a look: over the one before on a terminal, below it elsewhere, a line of JSON for a program."""
    if as_json:
        yield lambda rates: print(
            json.dumps(
                [{"id": s.id, "model": s.model, "step_index": s.step_index, "steps_per_second": rate} for rate, s in rates]
            ),
            flush=True,
        )
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda rates: live.update(_table(rates), refresh=True)
    else:
        yield lambda rates: console.print(_table(rates))


def _rates(sessions: Iterable[SessionInfo], before: Mapping[str, int], seconds: float) -> Rates:
    """Each session with its time steps a second since the look before, the busiest first."""
    rates = [((s.step_index - before.get(s.id, s.step_index)) / seconds, s) for s in sessions]
    return sorted(rates, key=lambda pair: (-pair[0], pair[1].id))


def _table(rates: Rates) -> Table:
    total = sum(rate for rate, _ in rates)
    table = Table(whole("session"), "model", "step_index", "steps/s", title=f"{len(rates)} sessions, {total:.0f} steps/s")
    for rate, s in rates[:ROWS]:
        table.add_row(s.id, s.model, str(s.step_index), f"{rate:.0f}")
    if len(rates) > ROWS:
        table.caption = f"and {len(rates) - ROWS} more"
    return table
