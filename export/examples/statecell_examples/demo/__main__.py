"""`python -m statecell_examples.demo --models models --out out`: serve the example models, step them, show what came out."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.syntax import Syntax
from rich.table import Table
from statecell_client import Client

from statecell_examples import EXAMPLES
from statecell_examples.demo.loop import cell_difference, classic_loop, lstm_difference
from statecell_examples.demo.plot import plot
from statecell_examples.demo.server import ServerFailedError, serving
from statecell_examples.demo.text import characters, write
from statecell_examples.forecast import HELD_OUT, Series

TOLERANCE = 1e-5
"""The largest difference between a remote result and PyTorch's own that still counts as equal."""

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: python -m statecell_examples.demo --models models --out out")
def main(
    models: Annotated[Path, typer.Option(help="The model repository that `statecell-export examples` wrote.")] = Path("models"),
    out: Annotated[Path, typer.Option(help="Where forecast.png goes.")] = Path("out"),
    length: Annotated[int, typer.Option(min=1, help="How many characters charlm writes.")] = 700,
) -> None:
    """Start a server on a free port, drive it with the client, show what came out, stop it."""
    missing = [name for name in EXAMPLES if not (models / name).is_dir()]
    if missing:
        raise typer.BadParameter(
            f"{models} has no {', '.join(missing)}; make them with: statecell-export examples --out {models}",
            param_hint="--models",
        )
    try:
        Demo(Console(highlight=False)).run(models, out, length)
    except ServerFailedError as error:
        raise SystemExit(str(error)) from None


class Demo:
    """Three sections and a summary, on a console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.summary = Table("what", "steps", "seconds", "steps/s")

    def run(self, models: Path, out: Path, length: int) -> None:
        with serving(models) as address, Client(address) as client:
            self.console.print(f"The server listens on {address}.")
            self.write_text(client, length)
            self.forecast(client, out / "forecast.png")
            self.compare(client)
        self.console.rule("Summary")
        self.console.print(self.summary)
        self.console.print("The server finished what was in flight and stopped with exit code 0.")

    def write_text(self, client: Client, length: int) -> None:
        self.console.rule("charlm writes, one character a step; its (h, c) stay on the server")
        with self.timed("charlm, a character a step", length):
            write(characters(client, length), self.console)

    def forecast(self, client: Client, picture: Path) -> None:
        self.console.rule("forecast follows CO₂ at Mauna Loa, week by week from 1958")
        series = Series.read()
        ticks = series.change[:-1, None]  # [weeks, 1]
        with self.timed("forecast, a week a step", len(ticks)), client.session("forecast") as session:
            predictions = [*session.stream(track(ticks, "weeks streamed", console=self.console))]
        predicted = np.concatenate(predictions)[-HELD_OUT:]
        plot(series, predicted, picture)
        self.console.print(
            f"Forecast of the next week over the last {HELD_OUT} weeks, which training has not seen: "
            f"RMSE {series.held_out_rmse(predicted):.3f} ppm.\n"
            f"Persistence (next week will be as this week): {series.held_out_rmse(np.zeros_like(predicted)):.3f} ppm.\n"
            f"Picture: {picture}"
        )

    def compare(self, client: Client) -> None:
        self.console.rule("The classic loop, with a remote cell in place of nn.LSTMCell(10, 20)")
        self.console.print(Syntax(inspect.getsource(classic_loop), "python", background_color="default"))
        with self.timed("nn.LSTMCell, two calls", 2):
            cell = cell_difference(client)
        with self.timed("nn.LSTM, one call", 5):
            lstm = lstm_difference(client)
        for name, difference in (("nn.LSTMCell(10, 20), x [2, 3, 10]", cell), ("nn.LSTM(10, 20, 2), x [5, 3, 10]", lstm)):
            self.console.print(f"{name}: remote and PyTorch differ by at most {difference:.1e}")
            if not difference <= TOLERANCE:
                raise SystemExit(f"{name} differs from PyTorch by {difference:.1e}, expected at most {TOLERANCE:.0e}")

    @contextmanager
    def timed(self, what: str, steps: int) -> Iterator[None]:
        """Time the block as so many steps, and note it for the summary."""
        started = perf_counter()
        yield
        seconds = perf_counter() - started
        self.summary.add_row(what, f"{steps:,}", f"{seconds:.2f}", f"{steps / seconds:,.0f}")


if __name__ == "__main__":
    app()
