"""The numbers in a .csv file: which of its columns, and what is wrong in which line."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

Line = tuple[int, list[str]]
"""Its number in the file, from 1, and its cells."""


@dataclass(frozen=True)
class Columns:
    """What a person said of a table: the columns to take, by title or number from 1 (none: all), and what stands between."""

    names: tuple[str, ...] = ()
    delimiter: str = ","

    @classmethod
    def of(cls, names: str, delimiter: str) -> "Columns":
        """From the options --columns and --delimiter. Raises ValueError."""
        between = {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter)
        if len(between) != 1:
            raise ValueError(f"--delimiter is {delimiter!r}, expected one character, or tab")
        return cls(tuple(name.strip() for name in names.split(",")) if names else (), between)


def read(path: Path, width: int, columns: Columns) -> list[Line]:
    """The lines' cells, `width` numbers each. Raises ValueError where they are not, OSError where it cannot be read.

    A first line without a number in it is the titles. Empty lines are left out.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            lines = [(number, line) for number, line in enumerate(csv.reader(file, delimiter=columns.delimiter), 1) if line]
        except csv.Error as error:  # such as a quote that is never closed
            raise ValueError(f"{path} is no table: {error}") from error
    if not lines:
        raise ValueError(f"{path} is empty, expected a line for each time step")
    titles = [] if any(map(is_number, lines[0][1])) else [cell.strip() for cell in lines[0][1]]
    body = lines[1:] if titles else lines
    if not body:
        raise ValueError(f"{path} has titles and nothing below them, expected a line for each time step")
    there = len(body[0][1])
    for number, line in body:
        if len(line) != there:
            raise ValueError(f"{path}, line {number} has {len(line)} columns, expected {there} as in line {body[0][0]}")
    places = _places(path, columns, titles, there)
    if len(places) != width:
        raise ValueError(
            f"{path} has {len(places)} columns{_shown(titles) if not columns.names else ' chosen'}, the model takes {width}"
            f"{_advice(body[0][1], titles, places, width)}"
        )
    for number, line in body:
        for place in places:
            if not is_number(line[place]):
                title = repr(titles[place]) if place < len(titles) else place + 1
                raise ValueError(
                    f"{path}, line {number}, column {title} has {line[place]!r}, expected a number"
                    f"{_advice(line, titles, places, width)}"
                )
    return [(number, [line[place] for place in places]) for number, line in body]


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _places(path: Path, columns: Columns, titles: Sequence[str], there: int) -> list[int]:
    """Where the columns are, in the order in which they were named."""
    if not columns.names:
        return list(range(there))
    places = []
    for name in columns.names:
        if name in titles:
            places.append(titles.index(name))
        elif name.isdigit() and 1 <= int(name) <= there:
            places.append(int(name) - 1)
        else:
            known = f"titles {', '.join(titles)}" if titles else "no titles"
            raise ValueError(f"{path} has no column {name!r}: it has {known}; give a title, or a number from 1 to {there}")
    return places


def _shown(titles: Sequence[str]) -> str:
    return f" ({', '.join(titles)})" if titles else ""


def _advice(line: Sequence[str], titles: Sequence[str], places: Sequence[int], width: int) -> str:
    """What to do about it, where that can be told from a line."""
    if len(line) == 1 and any(mark in line[0] for mark in ";\t|"):
        mark = next(mark for mark in ";\t|" if mark in line[0])
        return f"; is it another delimiter? --delimiter {'tab' if mark == chr(9) else repr(mark)}"
    numeric = [place for place in places if is_number(line[place])]
    chosen = numeric if len(numeric) == width else range(width) if len(places) > width else ()
    names = [titles[place] if place < len(titles) else str(place + 1) for place in chosen]
    return f"; choose the model's columns, as in --columns {','.join(names)}" if names else ""
