"""The benchmark: `make bench`, or `python -m bench.run --help`."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import date
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import fairness, growth, oip, serving
from bench.plots import draw
from bench.process import ProcessError
from bench.report import report
from bench.results import Measurement, Results, machine
from bench.setup import CACHE, HERE, SHAPES, Setup, SetupError, build, cores, export

console = Console()
Part = Callable[[], AbstractContextManager[list[Measurement]]]


class Only(StrEnum):
    """The parts."""

    SMALL = "1x128"
    MIDDLE = "1x512"
    LARGE = "2x1024"
    GROWTH = "growth"
    FAIRNESS = "fairness"
    OIP = "oip"


def bench(
    only: Annotated[list[Only] | None, typer.Option(help="Measure only this; may be given again.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A smoke run: everything works, the figures mean nothing.")] = False,
    rounds: Annotated[int, typer.Option(help="Rounds; each figure is their median.", min=1)] = 3,
    seconds: Annotated[float, typer.Option(help="How long one measurement lasts.", min=0.1)] = 0.4,
    out: Annotated[Path, typer.Option(help="Folder for <date>.json, <date>.md and the plots.")] = HERE / "results",
) -> None:
    """Measure the server against ONNX Runtime alone and an empty gRPC server, in about seven minutes.

    Example: python -m bench.run --only 1x128 --rounds 3

    Leave the machine alone meanwhile. --quick writes to bench/.cache/results unless --out says otherwise.
    """
    if quick:
        rounds, seconds, only = 1, 0.2, only or [Only.SMALL, Only.GROWTH, Only.FAIRNESS]
        out = CACHE / "results" if out == HERE / "results" else out
    try:
        setup, load = prepare(seconds, quick=quick)
        chosen = parts(setup, only or available())
        results = Results({"date": date.today().isoformat(), "load": load, "rounds": rounds, "seconds": seconds, **machine()})
        measure(results, chosen, rounds)
    except (SetupError, ProcessError) as error:
        console.print(f"[red]bench:[/red] {escape(str(error))}", highlight=False)
        raise typer.Exit(1) from error
    write(results, out)


def prepare(seconds: float, *, quick: bool) -> tuple[Setup, str]:
    """The setup, and what makes the load. Raises SetupError."""
    server_core, load_core = cores()
    os.sched_setaffinity(0, {load_core})
    programs, why = {}, ""
    with console.status("compiling the load and the empty server"):
        for name in ("client", "echo"):
            try:
                programs[name] = build(name)
            except SetupError as error:
                why = str(error)
                console.print(f"without C++: {escape(str(error))}")
    for model in SHAPES:
        with console.status(f"exporting {model}"):
            export(model)
    setup = Setup(server_core, load_core, seconds, seconds / 3, quick, programs.get("client"), programs.get("echo"))
    return setup, "C++" if setup.client else f"Python, which fills its core before the server's is full ({why})"


def parts(setup: Setup, only: list[Only]) -> dict[str, Part]:
    """By name."""
    every: dict[str, Part] = {model: partial(serving.part, model, setup) for model in SHAPES}
    every |= {"growth": partial(growth.part, setup), "fairness": partial(fairness.part, setup), "oip": partial(oip.part, setup)}
    return {name: part for name, part in every.items() if name in only}


def available() -> list[Only]:
    """All parts whose programs are there."""
    if oip.installed():
        return list(Only)
    console.print("without perf_analyzer: install it with: make outside")
    return [only for only in Only if only is not Only.OIP]


def measure(results: Results, chosen: dict[str, Part], rounds: int) -> None:
    """Every measurement of a part once a round, one after the other: what changes meanwhile changes for all."""
    columns = (TextColumn("{task.fields[part]:9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console, refresh_per_second=2) as progress:
        tasks = {name: progress.add_task("", part=name, total=None, start=False) for name in chosen}
        for name, part in chosen.items():
            progress.start_task(tasks[name])
            progress.update(tasks[name], description="starting servers")
            with part() as measurements:
                progress.update(tasks[name], total=rounds * len(measurements))
                for _ in range(rounds):
                    for measurement in measurements:
                        progress.update(tasks[name], description=measurement.key)
                        results.add(measurement)
                        progress.advance(tasks[name])
            progress.update(tasks[name], description="")
            for measurement in measurements:
                if measurement.histogram is not None:
                    results.histograms[measurement.key] = measurement.histogram()


def write(results: Results, out: Path) -> None:
    """<date>.json, <date>.md and the plots; the report on the screen as well."""
    out.mkdir(parents=True, exist_ok=True)
    stem = out / results.about["date"]
    results.save(stem.with_suffix(".json"))
    plots = draw(results, stem)
    text = report(results) + "".join(f"\n![{path.stem}]({path.name})\n" for path in plots)
    stem.with_suffix(".md").write_text(text)
    console.print(Markdown(text.partition("\n## LSTM")[0]))
    console.print(f"written: {stem.with_suffix('.md')}, {stem.with_suffix('.json')} and {len(plots)} plots beside them")


if __name__ == "__main__":
    typer.run(bench)
