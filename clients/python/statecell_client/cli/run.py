"""statecell run: a model over a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track
from statecell.spec import ModelSpec

from statecell_client.arrays import Array
from statecell_client.cli import outputs, series
from statecell_client.cli.common import LOCAL, ColumnNames, Decimal, Delimiter, Servers, complaints, connected
from statecell_client.cli.table import Columns
from statecell_client.session import Session
from statecell_client.snapshot import Snapshot

PLAIN: Any = {"soft_wrap": True, "highlight": False, "markup": False}


def run(
    file: Annotated[
        Path, typer.Argument(help="The inputs, a time step a line (.csv, .tsv) or an entry of the first axis (.npy, .npz).")
    ],
    model: Annotated[str, typer.Option(help="Step a new session of this model, deleted at the end.")] = "",
    session: Annotated[str, typer.Option(metavar="ID", help="Go on with this session.")] = "",
    restore: Annotated[Path | None, typer.Option(help="Go on from this snapshot, in a session deleted at the end.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the outputs go: .csv, .npy or .npz; else the terminal.")] = None,
    save: Annotated[Path | None, typer.Option(help="Where a snapshot of the state at the end goes.")] = None,
    columns: ColumnNames = "",
    delimiter: Delimiter = "",
    decimal: Decimal = ".",
    server: Servers = LOCAL,
) -> None:
    """Step a model over a file and write what comes out.

    Example: statecell run co2.csv --model forecast --columns change --out predicted.csv --save evening.snapshot

    Tomorrow: statecell run more.csv --restore evening.snapshot --columns change --out predicted.csv
    """
    if [bool(model), bool(session), restore is not None].count(True) != 1:
        raise typer.BadParameter("say what to step: one of --model, --session and --restore")
    with connected(server) as client:
        snapshot = Snapshot.from_bytes(restore.read_bytes()) if restore is not None else None
        attached = client.attach(session) if session else None
        spec = attached.model.spec if attached else client.model(snapshot.model if snapshot else model).spec
        inputs = series.read(file, spec, Columns.of(columns, delimiter, decimal))
        outputs.check(out, spec)
        outputs.check_place(save)
        if attached is not None:
            answers = _run(attached, inputs, save)
        else:
            with client.session(spec.name, batch=series.batch_of(inputs, spec), snapshot=snapshot) as ours:
                answers = _run(ours, inputs, save)
        arrays = _stacked(answers, spec)
        outputs.write(out, arrays)
        complaints.print(f"{len(answers)} time steps of {spec.name}: {outputs.told(arrays, out)}", **PLAIN)
        if save is not None:
            complaints.print(f"state at the end saved as {save}", **PLAIN)


def _run(session: Session, inputs: series.Series, save: Path | None) -> list[Any]:
    steps = series.steps(inputs)
    quiet = not complaints.is_terminal
    stepping = track(session.stream(steps), "Stepping", len(steps), console=complaints, transient=True, disable=quiet)
    answers = list(stepping)
    if save is not None:
        save.write_bytes(session.snapshot().to_bytes())
    return answers


def _stacked(answers: Sequence[Any], spec: ModelSpec) -> dict[str, Array]:
    """The steps' answers, [steps, ...] by output."""
    names = [t.name for t in spec.outputs]
    named = [answer if isinstance(answer, dict) else {names[0]: answer} for answer in answers]
    return {name: np.stack([answer[name] for answer in named]) for name in names}
