"""The statecell-export command.

PyTorch takes seconds to import, so each command imports what it runs by itself: help and shell completion answer at once.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from statecell_export.errors import ExportError
from statecell_export.report import Proof, Report

# Without rich's markup, which would take the axes in "x:float32[seq_len,batch,10]" for a style.
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console(highlight=False)
complaints = Console(stderr=True, highlight=False)

Out = Annotated[Path, typer.Option(help="The model repository to write into.")]
Name = Annotated[str, typer.Option(help="The model's name: its folder in the repository.")]
Number = Annotated[int, typer.Option(help="The version to write; one that is there is replaced.")]
Target = Annotated[
    str,
    typer.Argument(help="What makes the module, as pkg.mod:factory or pkg/mod.py:factory; it may return (module, example)."),
]
Checkpoint = Annotated[
    Path | None, typer.Option(help="Its weights: what torch.save(module.state_dict(), …) wrote, or .safetensors.")
]
States = Annotated[
    list[str] | None,
    typer.Option(help="A state of forward and the result that carries it on, as h:1, h:h_next or cached_*:new_cached_*."),
]
Constants = Annotated[list[str] | None, typer.Option(help="An input that always has one value, as episode_starts=0.")]
Lines = Annotated[
    list[str] | None, typer.Option(help='An input and its axes, such as "x:float32[seq_len,batch,10]"; again for more.')
]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"statecell-export {version_of('statecell-export')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Export recurrent PyTorch models to ONNX and TorchScript, and prove the export."""


@app.command()
def examples(out: Out = Path("models")) -> None:
    """Export and verify the example models; those that are exported already and unchanged are left as they are.

    Example: statecell-export examples --out models
    """
    with explained():
        from statecell_examples import EXAMPLES, freshness

        from statecell_export.exporter import export

        made_from, reports = freshness.sources(), []
        for number, (name, factory) in enumerate(EXAMPLES.items(), 1):
            if freshness.is_fresh(out, name, made_from):
                console.print(f"{name}: exported already, and unchanged")
                continue
            began = time.perf_counter()
            with working(f"exporting {name} ({number} of {len(EXAMPLES)})"):
                reports.append(export(*factory(), name=name, out=out))
                freshness.mark(out, name, made_from)
            console.print(f"{name}: exported and proven in {time.perf_counter() - began:.1f} s")
    if reports:
        show(*reports)


@app.command()
def module(
    target: Target,
    name: Name,
    checkpoint: Checkpoint = None,
    example: Lines = None,
    out: Out = Path("models"),
    version: Number = 1,
    form: Annotated[str, typer.Option(help="float32 (ONNX and TorchScript), float16 or int8 (ONNX).")] = "float32",
    state: States = None,
    constant: Constants = None,
    as_json: AsJson = False,
) -> None:
    """Export a module and prove it.

    Example: statecell-export module tagger:make --checkpoint weights.pt --example "x:float32[seq_len,batch,10]" --name tagger
    """
    with explained(), working(f"exporting {name}"):
        from statecell_export.exporter import export

        made, given = _made(target, checkpoint, example)
        _warn_of_sizes(example)
        constants = _numbers("--constant", constant)
        report = export(made, given, name=name, out=out, version=version, form=form, states=state or (), constants=constants)
    show(report, as_json=as_json)


@app.command()
def adopt(
    file: Annotated[Path, typer.Argument(help="An ONNX file from anywhere.")],
    name: Name,
    state: Annotated[
        list[str] | None, typer.Option(help="A state's input and output, as state:stateN or cached_*:new_cached_*.")
    ] = None,
    constant: Annotated[list[str] | None, typer.Option(help="An input that is to have one value, as sr=16000.")] = None,
    example: Lines = None,
    out: Out = Path("models"),
    version: Number = 1,
    as_json: AsJson = False,
) -> None:
    """Give a stranger's ONNX file a spec, its states lifted out, and prove it.

    Example: statecell-export adopt stranger.onnx --name vad --state state:stateN --constant sr=16000
    """
    with explained(), working(f"adopting {file.name}"):
        from statecell_export.adopting.adopt import adopt as adopt_file

        states, constants = _split("--state", state, ":"), _split("--constant", constant, "=")
        report = adopt_file(
            file, name=name, out=out, version=version, states=states, constants=constants, example=example or ()
        )
    show(report, as_json=as_json)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A model or a version in the repository, such as models/lstm.")],
    target: Annotated[str | None, typer.Option("--module", help="Verify against this module too, as pkg.mod:factory.")] = None,
    checkpoint: Checkpoint = None,
    example: Lines = None,
    state: States = None,
    constant: Constants = None,
    as_json: AsJson = False,
) -> None:
    """Prove an exported model again: chunked against whole, artifact against artifact, and against a module when given.

    Example: statecell-export verify models/tagger --module tagger:make --checkpoint weights.pt
    """
    with explained(), working(f"verifying {folder}"):
        from statecell_export.artifacts import verify as verify_version

        made, given = (None, None) if target is None else _made(target, checkpoint, example, needed=False)
        proof = verify_version(folder, made, given, states=state or (), constants=_numbers("--constant", constant))
    if as_json:
        print(json.dumps(asdict(proof) | {"worst_error": proof.worst_error}, indent=2))
    else:
        console.print(proof_table(proof))
        _refused({"this model": proof})


@app.command()
def inspect(file: Annotated[Path, typer.Argument(help="A .onnx or .pt file, or a model's folder.")]) -> None:
    """Show a file's spec, nodes, sizes, opset and states, and whether it can be stepped.

    Example: statecell-export inspect models/lstm/1/model.onnx
    """
    with explained():
        from statecell_export.inspection import inspect as inspect_file

        console.print(inspect_file(file))


@contextmanager
def explained() -> Iterator[None]:
    """An ExportError as a message and exit code 1, without a traceback."""
    try:
        yield
    except ExportError as error:
        complaints.print(f"[bold red]{type(error).__name__}[/]: {escape(str(error))}", soft_wrap=True)
        for note in getattr(error, "__notes__", ()):
            complaints.print(escape(note), soft_wrap=True)
        raise typer.Exit(1) from None


@contextmanager
def working(what: str) -> Iterator[None]:
    """Shows that something is going on, and for how long; where nobody watches, one line says so."""
    if not complaints.is_terminal:
        complaints.print(escape(what), soft_wrap=True)
        yield
        return
    columns = (SpinnerColumn(), TextColumn(escape(what)), TimeElapsedColumn())
    with Progress(*columns, console=complaints, transient=True) as progress:
        progress.add_task(what, total=None)
        yield


def summary(reports: tuple[Report, ...]) -> Table:
    """The reports as a table."""
    table = Table(Column("model", no_wrap=True), "recipe", "worst error", "its own", "allowed", "seconds", "stepped")
    for report in reports:
        proof = report.proof
        errors = (f"{error:.1e}" for error in (proof.worst_error, proof.own_error, proof.tolerance))
        stepped = "yes" if proof.streamable else "no"
        table.add_row(report.spec.name, report.recipe, *errors, f"{report.seconds:.2f}", stepped)
    return table


def show(*reports: Report, as_json: bool = False) -> None:
    """The reports, where they lie, and what is to be known of them."""
    if as_json:
        for report in reports:
            print(report.to_json(), end="")
        return
    console.print(summary(reports))
    _refused({report.spec.name: report.proof for report in reports})
    for report in reports:
        console.print(f"written: {escape(str(report.path))}", soft_wrap=True)
        for note in report.notes:
            console.print(f"note: {escape(note)}", soft_wrap=True)
        for assumption in report.assumptions:
            console.print(f"assumed: {escape(assumption)}", soft_wrap=True)


def _refused(proofs: dict[str, Proof]) -> None:
    """Under the table, where a sentence has the room that it needs."""
    for name, proof in proofs.items():
        if not proof.streamable:
            console.print(f"{escape(name)} cannot be stepped, only called whole: {escape(proof.reason)}", soft_wrap=True)


def proof_table(proof: Proof) -> Table:
    """Worst errors by artifact and output."""
    table = Table("artifact", "output", "worst error", title=f"{proof.cases} comparisons with {proof.reference}")
    for artifact, outputs in proof.worst.items():
        for output, error in outputs.items():
            table.add_row(artifact, output, f"{error:.1e}")
    return table


def _made(target: str, checkpoint: Path | None, example: list[str] | None, *, needed: bool = True) -> tuple[Any, Any]:
    """The module with its weights, and the example: the command's before the factory's."""
    from statecell_export.checkpoint import load
    from statecell_export.factory import make

    made, given = make(target)
    if checkpoint is not None:
        load(made, checkpoint)
    if needed and not example and given is None:
        raise ExportError(
            'an example is needed: --example "x:float32[seq_len,batch,10]", or a factory that returns (module, example)'
        )
    return made, example or given


def _warn_of_sizes(lines: list[str] | None) -> None:
    """Says what numbers in place of names mean, which is seldom what is meant."""
    for line in lines or ():
        axes = line.partition("[")[2].rstrip("] ").split(",")
        if len(axes) > 1 and all(axis.strip().isdigit() for axis in axes):
            complaints.print(
                f"[yellow]warning[/]: {escape(line)} fixes seq_len and batch at these numbers; "
                f"name the axes that vary, as in {escape('x:float32[seq_len,batch,10]')}",
                soft_wrap=True,
            )


def _split(option: str, entries: list[str] | None, separator: str) -> dict[str, str]:
    for entry in entries or ():
        if not all(entry.partition(separator)):
            raise ExportError(f"{option} {entry!r} cannot be read; write it as NAME{separator}VALUE")
    return {entry.partition(separator)[0]: entry.partition(separator)[2] for entry in entries or ()}


def _numbers(option: str, entries: list[str] | None) -> dict[str, float]:
    numbers = {}
    for name, text in _split(option, entries, "=").items():
        try:
            numbers[name] = float({"true": "1", "false": "0"}.get(text.lower(), text))
        except ValueError:
            raise ExportError(f"{option} {name}={text}: {text!r} is no number") from None
    return numbers


if __name__ == "__main__":
    app(prog_name="statecell-export")
