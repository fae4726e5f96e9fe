"""The statecell-export command."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, track
from rich.table import Table

from statecell_export import checkpoint as weights
from statecell_export.adopting.adopt import adopt as adopt_file
from statecell_export.artifacts import verify as verify_version
from statecell_export.errors import ExportError
from statecell_export.exporter import export
from statecell_export.inspection import inspect as inspect_file
from statecell_export.report import Proof, Report

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console()

Out = Annotated[Path, typer.Option(help="The model repository to write into.")]
Name = Annotated[str, typer.Option(help="The model's name: its folder in the repository.")]
Number = Annotated[int, typer.Option(help="The version to write; one that is there is replaced.")]
Target = Annotated[str, typer.Argument(help="What makes the module, as pkg.mod:factory; it may return (module, example).")]
Checkpoint = Annotated[Path | None, typer.Option(help="Its weights, from torch.save(module.state_dict(), …).")]
Lines = Annotated[
    list[str] | None, typer.Option(help='An input and its axes, such as "x:float32[seq_len,batch,10]"; again for more.')
]


@app.callback()
def main() -> None:
    """Export recurrent PyTorch models to ONNX and TorchScript, and prove the export."""


@app.command()
def examples(out: Out = Path("models")) -> None:
    """Export and verify the example models.

    Example: statecell-export examples --out models
    """
    from statecell_examples import EXAMPLES

    reports = []
    for name, factory in track(EXAMPLES.items(), "Exporting", console=console, transient=True):
        with explained():
            module, example = factory()
            reports.append(export(module, example, name=name, out=out))
    console.print(summary(reports))


@app.command()
def module(
    target: Target,
    name: Name,
    checkpoint: Checkpoint = None,
    example: Lines = None,
    out: Out = Path("models"),
    version: Number = 1,
    form: Annotated[str, typer.Option(help="float32 (ONNX and TorchScript), float16 or int8 (ONNX).")] = "float32",
) -> None:
    """Export a module and prove it.

    Example: statecell-export module tagger:make --checkpoint weights.pt --example "x:float32[seq_len,batch,10]" --name tagger
    """
    with explained(), working(f"Exporting {name}"):
        made, given = _made(target, checkpoint, example)
        report = export(made, given, name=name, out=out, version=version, form=form)
    show(report)


@app.command()
def adopt(
    file: Annotated[Path, typer.Argument(help="An ONNX file from anywhere.")],
    name: Name,
    state: Annotated[list[str] | None, typer.Option(help="A state's input and output, as state:stateN.")] = None,
    constant: Annotated[list[str] | None, typer.Option(help="An input that is to have one value, as sr=16000.")] = None,
    example: Lines = None,
    out: Out = Path("models"),
    version: Number = 1,
) -> None:
    """Give a stranger's ONNX file a spec, its states lifted out, and prove it.

    Example: statecell-export adopt stranger.onnx --name vad --state state:stateN --constant sr=16000
    """
    with explained(), working(f"Adopting {file.name}"):
        states, constants = _split("--state", state, ":"), _split("--constant", constant, "=")
        report = adopt_file(
            file, name=name, out=out, version=version, states=states, constants=constants, example=example or ()
        )
    show(report)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A model or a version in the repository, such as models/lstm.")],
    target: Annotated[str | None, typer.Option("--module", help="Verify against this module too, as pkg.mod:factory.")] = None,
    checkpoint: Checkpoint = None,
    example: Lines = None,
) -> None:
    """Prove an exported model again: chunked against whole, artifact against artifact, and against a module when given.

    Example: statecell-export verify models/tagger --module tagger:make --checkpoint weights.pt
    """
    with explained(), working(f"Verifying {folder}"):
        made, given = (None, None) if target is None else _made(target, checkpoint, example, needed=False)
        proof = verify_version(folder, made, given)
    console.print(proof_table(proof))


@app.command()
def inspect(file: Annotated[Path, typer.Argument(help="A .onnx or .pt file, or a model's folder.")]) -> None:
    """Show a file's spec, nodes, sizes, opset and states, and whether it can be stepped.

    Example: statecell-export inspect models/lstm/1/model.onnx
    """
    with explained():
        console.print(inspect_file(file))


@contextmanager
def explained() -> Iterator[None]:
    """An ExportError as a message and exit code 1, without a traceback."""
    try:
        yield
    except ExportError as error:
        console.print(f"[bold red]{type(error).__name__}[/]: {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None


@contextmanager
def working(what: str) -> Iterator[None]:
    """A line that shows that something is going on, and for how long."""
    columns = (SpinnerColumn(), TextColumn(escape(what)), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(what, total=None)
        yield


def summary(reports: list[Report]) -> Table:
    """The reports as a table."""
    table = Table("model", "recipe", "worst error", "its own", "allowed", "seconds", "streamable", "digest")
    for report in reports:
        proof = report.proof
        streamable = "yes" if proof.streamable else f"no: {proof.reason}"
        errors = (f"{error:.1e}" for error in (proof.worst_error, proof.own_error, proof.tolerance))
        table.add_row(report.spec.name, report.recipe, *errors, f"{report.seconds:.2f}", escape(streamable), report.digest[:12])
    return table


def show(report: Report) -> None:
    """One report, where it lies, and what is to be known of it."""
    console.print(summary([report]))
    console.print(f"written: {escape(str(report.path))}", soft_wrap=True)
    for note in report.notes:
        console.print(f"note: {escape(note)}", soft_wrap=True)


def proof_table(proof: Proof) -> Table:
    """Worst errors by artifact and output."""
    table = Table("artifact", "output", "worst error", title=f"{proof.cases} comparisons with {proof.reference}")
    for artifact, outputs in proof.worst.items():
        for output, error in outputs.items():
            table.add_row(artifact, output, f"{error:.1e}")
    table.caption = "streamable" if proof.streamable else f"not streamable: {proof.reason}"
    return table


def _made(target: str, checkpoint: Path | None, example: list[str] | None, *, needed: bool = True) -> tuple[Any, Any]:
    """The module with its weights, and the example: the command's before the factory's."""
    made, given = weights.make(target)
    if checkpoint is not None:
        weights.load(made, checkpoint)
    if needed and not example and given is None:
        raise ExportError(
            'an example is needed: --example "x:float32[seq_len,batch,10]", or a factory that returns (module, example)'
        )
    return made, example or given


def _split(option: str, entries: list[str] | None, separator: str) -> dict[str, str]:
    for entry in entries or ():
        if not all(entry.partition(separator)):
            raise ExportError(f"{option} {entry!r} cannot be read; write it as NAME{separator}VALUE")
    return {entry.partition(separator)[0]: entry.partition(separator)[2] for entry in entries or ()}


if __name__ == "__main__":
    app(prog_name="statecell-export")
