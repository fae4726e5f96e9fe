"""The statecell-export command."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from statecell_export.errors import ExportError
from statecell_export.exporter import export
from statecell_export.report import Report

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console()

Out = Annotated[Path, typer.Option(help="The model repository to write into.")]


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
        module, example = factory()
        with explained():
            reports.append(export(module, example, name=name, out=out))
    console.print(summary(reports))


@contextmanager
def explained() -> Iterator[None]:
    """An ExportError as a message and exit code 1, without a traceback."""
    try:
        yield
    except ExportError as error:
        console.print(f"[bold red]{type(error).__name__}[/]: {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None


def summary(reports: list[Report]) -> Table:
    """The reports as a table."""
    table = Table("model", "recipe", "worst error", "allowed", "seconds", "streamable", "digest", "folder")
    for report in reports:
        proof = report.proof
        table.add_row(
            report.spec.name,
            report.recipe,
            f"{proof.worst_error:.1e}",
            f"{proof.tolerance:.1e}",
            f"{report.seconds:.2f}",
            "yes" if proof.streamable else f"no: {proof.reason}",
            report.digest[:12],
            str(report.path),
        )
    return table


if __name__ == "__main__":
    app(prog_name="statecell-export")
