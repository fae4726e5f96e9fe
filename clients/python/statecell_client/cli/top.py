"""statecell top: what a server's models do."""

import json
import math
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Annotated

import typer
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from statecell_client.cli.common import AsJson, complaints, console, given, whole
from statecell_client.cli.metrics import Figures, Key, Look, between, read
from statecell_client.token import metadata

SECONDS = 10.0
"""That a server has for its answer."""
MOST = 16 << 20
"""Bytes of it."""


def top(
    http: Annotated[
        str,
        typer.Option("--http", envvar="STATECELL_HTTP", metavar="HOST:PORT", help="The server's HTTP port (its --http-port)."),
    ] = "localhost:8080",
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one table, of what is done in one interval, and end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch the models of a server work. Where no terminal shows it, each look is printed below the one before.

    Example: statecell top --http localhost:8080 --interval 2
    """
    # Ctrl-C is how it is meant to end.
    with suppress(KeyboardInterrupt):
        before, looked = _look(http), time.monotonic()
        with _shown(as_json) as show:
            while True:
                time.sleep(interval)
                look, now = _look(http), time.monotonic()
                show(between(before, look, now - looked))
                before, looked = look, now
                if once:
                    return


def _look(http: str) -> Look:
    """Ends the command where the server does not answer."""
    url = f"{'http' if given.tls is None else 'https'}://{http}/metrics"
    try:
        asked = urllib.request.Request(url, headers=dict(metadata(given.token)))
        with urllib.request.urlopen(asked, timeout=SECONDS, context=_context()) as answer:
            return read(answer.read(MOST).decode())
    except (OSError, ValueError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        todo = "start the server with --http-port, and name it: --http HOST:PORT or STATECELL_HTTP=HOST:PORT"
        if isinstance(error, urllib.error.HTTPError) and error.code == 401:
            todo = "say who asks: statecell --token-file FILE top"
        complaints.print(f"[bold red]no metrics[/] from {escape(url)}: {escape(str(reason))}; {todo}", soft_wrap=True)
        raise typer.Exit(1) from None


def _context() -> ssl.SSLContext | None:
    if given.tls is None:
        return None
    context = ssl.create_default_context(cafile=given.tls.ca)
    if given.tls.cert is not None:
        context.load_cert_chain(given.tls.cert, given.tls.key)
    return context


@contextmanager
def _shown(as_json: bool) -> Iterator[Callable[[Mapping[Key, Figures]], None]]:
    """What shows a look: over the one before on a terminal, below it elsewhere, a line of JSON for a program."""
    if as_json:
        yield lambda found: print(json.dumps([_plain(key, figures) for key, figures in found.items()]), flush=True)
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda found: live.update(_table(found), refresh=True)
    else:
        yield lambda found: console.print(_table(found))


def _plain(key: Key, figures: Figures) -> dict[str, object]:
    """JSON has no NaN."""
    flat = figures._asdict()
    for name in ("run", "queue"):
        flat[f"{name}_p50"], flat[f"{name}_p99"] = flat.pop(name)
    known = {name: None if math.isnan(value) else value for name, value in flat.items()}
    return {"model": key[0], "version": key[1], **known}


def _table(found: Mapping[Key, Figures]) -> Table:
    total = sum(figures.steps for figures in found.values())
    columns = ("steps/s", "failed/s", "rows/run", "run p50", "p99", "queue p50", "p99", "waiting", "live", "spilled", "states")
    table = Table(whole("model"), title=f"{len(found)} models, {total:.0f} steps/s")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for (model, version), f in found.items():
        times = [_seconds(t) for t in (*f.run, *f.queue)]
        rows = "-" if math.isnan(f.rows) else f"{f.rows:.1f}"
        counts = [f"{n:.0f}" for n in (f.waiting, f.live, f.spilled)]
        states = f"{f.state_bytes / (1 << 20):.1f}/{f.state_limit_bytes / (1 << 20):.0f} MiB"
        table.add_row(escape(f"{model}/{version}"), f"{f.steps:.0f}", f"{f.failed:.0f}", rows, *times, *counts, states)
    return table


def _seconds(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} us"
