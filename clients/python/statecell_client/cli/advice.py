"""What to do about a table that does not hold the model's numbers, where that can be told from a line of it."""

from collections.abc import Sequence
from typing import Protocol


class Written(Protocol):
    """How a person says that a table is written."""

    @property
    def decimal(self) -> str: ...


def is_number(cell: str, decimal: str = ".") -> bool:
    """Whether it is one, written with this decimal mark; NaN and infinity are, and what only Python's own source has is not."""
    if "_" in cell or (decimal == "," and "." in cell):
        return False
    try:
        float(cell.replace(decimal, "."))
    except ValueError:
        return False
    return True


def other_delimiter(first: Sequence[str], line: Sequence[str], delimiter: str) -> str:
    """Where all columns of the first line are one, because something else stands between them."""
    whole = delimiter.join(first)
    for mark in ";\t|":
        parts = delimiter.join(line).split(mark)
        if mark != delimiter and mark in whole and len(parts) > 1:
            commas = any(is_number(part, ",") and not is_number(part) for part in parts)
            named = "tab" if mark == "\t" else repr(mark)
            return f"; is it another delimiter? --delimiter {named}{' --decimal ,' if commas else ''}"
    return ""


def on_width(line: Sequence[str], titles: Sequence[str], places: Sequence[int], width: int, decimal: str) -> str:
    """Which columns the model may take."""
    numeric = [place for place in places if is_number(line[place], decimal)]
    chosen = numeric if len(numeric) == width else range(width) if len(places) > width else ()
    names = [_name(place, titles) for place in chosen]
    return f"; choose the model's columns, as in --columns {','.join(names)}" if names else ""


def on_cell(cell: str, line: Sequence[str], titles: Sequence[str], places: Sequence[int], width: int, written: Written) -> str:
    """How a cell, or its whole table, is written."""
    other = "," if written.decimal == "." else "."
    if is_number(cell, other):
        return f"; its numbers have a decimal {'comma' if other == ',' else 'point'}: --decimal {other}"
    if not cell.strip() or cell.strip().lower() in ("na", "n/a", "null", "none", "-", "#n/a"):
        return "; fill the gap first, or leave the line out"
    if cell.count(".") + cell.count(",") > 1 and is_number(cell.replace(",", "").replace(".", "")):
        return "; write its numbers without a mark between the thousands"
    return on_width(line, titles, places, width, written.decimal)


def _name(place: int, titles: Sequence[str]) -> str:
    """A column's title, where that names it and no other."""
    title = titles[place] if place < len(titles) else ""
    plain = title and titles.count(title) == 1 and not title.isdigit() and not set(title) & set(" ,;'\"$`\\")
    return title if plain else str(place + 1)
