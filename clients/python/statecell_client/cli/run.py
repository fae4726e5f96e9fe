"""statecell run: a model over a file."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from statecell_client.cli import series
from statecell_client.cli.common import LOCAL, Servers, complaints, connected
from statecell_client.session import Session
from statecell_client.snapshot import Snapshot


def run(
    file: Annotated[
        Path, typer.Argument(help="The inputs, a time step a line (.csv) or an entry of the first axis (.npy, .npz).")
    ],
    model: Annotated[str, typer.Option(help="Step a new session of this model, deleted at the end.")] = "",
    session: Annotated[str, typer.Option(metavar="ID", help="Go on with this session.")] = "",
    restore: Annotated[Path | None, typer.Option(help="Go on from this snapshot, in a session deleted at the end.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the outputs go: .csv, .npy or .npz; else the terminal.")] = None,
    save: Annotated[Path | None, typer.Option(help="Where a snapshot of the state at the end goes.")] = None,
    server: Servers = LOCAL,
) -> None:
    """Step a model over a file and write what comes out.

    Example: statecell run co2.csv --model forecast --out predicted.csv --save evening.snapshot

    Tomorrow: statecell run more.csv --restore evening.snapshot --out predicted.csv
    """
    if [bool(model), bool(session), restore is not None].count(True) != 1:
        raise typer.BadParameter("say what to step: one of --model, --session and --restore")
    with connected(server) as client:
        snapshot = Snapshot.from_bytes(restore.read_bytes()) if restore is not None else None
        attached = client.attach(session) if session else None
        spec = attached.model.spec if attached else client.model(snapshot.model if snapshot else model).spec
        inputs = series.read(file, spec)
        series.check(out, spec)
        if attached is not None:
            _run(attached, inputs, out, save)
        else:
            with client.session(spec.name, batch=series.batch_of(inputs, spec), snapshot=snapshot) as ours:
                _run(ours, inputs, out, save)


def _run(session: Session, inputs: series.Series, out: Path | None, save: Path | None) -> None:
    steps = series.steps(inputs)
    answers = list(track(session.stream(steps), "Stepping", total=len(steps), console=complaints, transient=True))
    series.write(out, answers, session.model.spec)
    if save is not None:
        save.write_bytes(session.snapshot().to_bytes())
