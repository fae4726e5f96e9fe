"""statecell infer: one stateless call over a file."""

from pathlib import Path
from typing import Annotated

import typer

from statecell_client.cli import outputs, series
from statecell_client.cli.common import LOCAL, ColumnNames, Decimal, Delimiter, Servers, complaints, connected
from statecell_client.cli.table import Columns


def infer(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    file: Annotated[
        Path,
        typer.Argument(help="The inputs: .npy or .npz in the model's own layout, or .csv or .tsv with a time step a line."),
    ],
    out: Annotated[Path | None, typer.Option(help="Where the outputs go: .csv, .npy or .npz; else the terminal.")] = None,
    version: Annotated[str, typer.Option(help="The model's version; else the newest.")] = "",
    columns: ColumnNames = "",
    delimiter: Delimiter = "",
    decimal: Decimal = ".",
    server: Servers = LOCAL,
) -> None:
    """Call a model once over a file, without a session; models that cannot be stepped too.

    Example: statecell infer tagger sentence.csv --out tags.csv

    A .npz file may hold the initial states beside the inputs, and gets the final states beside the outputs.
    """
    with connected(server) as client:
        spec = client.model(model, version).spec
        inputs = series.whole(file, spec, Columns.of(columns, delimiter, decimal))
        outputs.check(out, spec)
        answer = client.infer(model, version=version, **inputs)
        if out is not None and out.suffix == ".npz":
            arrays = answer
        elif out is not None and out.suffix == ".npy":
            arrays = {spec.outputs[0].name: answer[spec.outputs[0].name]}
        else:
            arrays = outputs.lines(answer, spec)
        outputs.write(out, arrays)
        complaints.print(outputs.told(arrays, out), soft_wrap=True, highlight=False, markup=False)
