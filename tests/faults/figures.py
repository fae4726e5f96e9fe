"""Figures: what each fault cost the clients."""

from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One fault and what became of the sessions under it."""

    fault: str
    sessions: int
    steps: int
    retries: int
    longest_pause_ms: float
    lost: int
    doubled: int
    failed: int


class Figures:
    """The rows of a run, as a Markdown table."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        self.rows.append(row)

    def table(self) -> str:
        names = [field.name.replace("_", " ") for field in fields(Row)]
        lines = [names, ["---", *["---:"] * (len(names) - 1)]]
        for row in self.rows:
            values = [getattr(row, field.name) for field in fields(Row)]
            lines.append([f"{value:,.0f}" if isinstance(value, float) else str(value) for value in values])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def write(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(self.table())
