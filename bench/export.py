"""How long an export takes, verification included, and how far its artifacts are from float64.

python -m bench.export [--write docs/export.md]
"""

import argparse
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from statecell_export import Report, export
from torch import nn

REPEATS = 3
MOST_SECONDS, MOST_ERROR = 0.5, 1e-6
BEGIN, END = "<!-- measured: made by bench/export.py -->", "<!-- end of measured -->"

CASES: list[tuple[str, type[nn.Module], tuple[int, ...], dict[str, object]]] = [
    *(
        (f"nn.LSTM({hidden}, {hidden}, {layers})", nn.LSTM, (hidden, hidden, layers), {})
        for hidden in (64, 128, 256)
        for layers in (1, 2)
    ),
    ("nn.LSTM(256, 256, bidirectional=True)", nn.LSTM, (256, 256), {"bidirectional": True}),
    ("nn.LSTM(256, 256, proj_size=128)", nn.LSTM, (256, 256), {"proj_size": 128}),
    ("nn.GRU(256, 256)", nn.GRU, (256, 256), {}),
    ("nn.RNN(256, 256)", nn.RNN, (256, 256), {}),
    ("nn.LSTMCell(256, 256)", nn.LSTMCell, (256, 256), {}),
]


def measure(kind: type[nn.Module], sizes: tuple[int, ...], options: dict[str, object], form: str) -> tuple[float, Report]:
    """Seconds of the fastest export, and the last report."""
    torch.manual_seed(0)
    module = kind(*sizes, **options)
    example = torch.zeros((3, sizes[0]) if issubclass(kind, nn.RNNCellBase) else (5, 3, sizes[0]))
    reports = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as out:
            reports.append(export(module, example, name="m", out=out, form=form))
    return min(report.seconds for report in reports), reports[-1]


def table() -> list[str]:
    """Lines of Markdown."""
    lines = [
        "| module | form | seconds | worst error | allowed | error against the unrounded module | bytes |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as out:  # the first export of a process also loads what the others find loaded
        export(nn.LSTM(3, 6), torch.zeros(5, 3, 3), name="m", out=out)
    todo = [(*case, "float32") for case in CASES] + [(*CASES[4], form) for form in ("float16", "int8")]
    for name, kind, sizes, options, form in track(todo, "Exporting", console=Console(stderr=True), transient=True):
        seconds, report = measure(kind, sizes, options, form)
        accuracy = max(max(worst.values()) for worst in report.accuracy.values())
        size = report.artifacts["model.onnx"]["bytes"]
        proof = report.proof
        errors = f"{proof.worst_error:.1e} | {proof.tolerance:.1e} | {accuracy:.1e}"
        lines.append(f"| `{name}` | {form} | {seconds:.2f} | {errors} | {size:,} |")
        if form == "float32" and (proof.worst_error > MOST_ERROR or (kind is nn.LSTM and seconds > MOST_SECONDS)):
            lines[-1] += " **beyond the goal**"
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="put the table between the marks in this file, such as docs/export.md")
    path = parser.parse_args().write
    torch.set_num_threads(1)  # the matrices are small; more threads only wait for one another
    lines = table()
    print("\n".join(lines))
    if path is not None:
        before, rest = path.read_text().split(BEGIN)
        path.write_text("\n".join([before + BEGIN, *lines, END]) + rest.split(END)[1])


if __name__ == "__main__":
    main()
