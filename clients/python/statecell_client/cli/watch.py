"""statecell watch: who steps how fast."""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Table

from statecell_client.cli.common import LOCAL, Servers, connected, console, whole
from statecell_client.model import SessionInfo

ROWS = 20


def watch(
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
    count: Annotated[int, typer.Option(min=0, help="Looks to take; 0: until Ctrl-C.")] = 0,
    server: Servers = LOCAL,
) -> None:
    """Watch the sessions step, the busiest first.

    Example: statecell watch --interval 2
    """
    before: dict[str, int] = {}
    looked, looks = time.monotonic(), 0
    # Ctrl-C is how it is meant to end.
    with suppress(KeyboardInterrupt), connected(server) as client, Live(console=console, auto_refresh=False) as live:
        while not count or looks < count:
            sessions = client.sessions()
            now = time.monotonic()
            live.update(_table(sessions, before, now - looked), refresh=True)
            before, looked, looks = {s.id: s.step_index for s in sessions}, now, looks + 1
            if looks != count:
                time.sleep(interval)


def _table(sessions: Iterable[SessionInfo], before: Mapping[str, int], seconds: float) -> Table:
    """The sessions by time steps a second since the look before."""
    rates = [((s.step_index - before.get(s.id, s.step_index)) / seconds, s) for s in sessions]
    rates.sort(key=lambda pair: (-pair[0], pair[1].id))
    total = sum(rate for rate, _ in rates)
    table = Table(whole("session"), "model", "step_index", "steps/s", title=f"{len(rates)} sessions, {total:.0f} steps/s")
    for rate, s in rates[:ROWS]:
        table.add_row(s.id, s.model, str(s.step_index), f"{rate:.0f}")
    if len(rates) > ROWS:
        table.caption = f"and {len(rates) - ROWS} more"
    return table
