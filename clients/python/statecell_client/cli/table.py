"""The numbers in a .csv file: which of its columns, and what is wrong in which line."""

import codecs
import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from statecell_client.cli import advice
from statecell_client.cli.advice import is_number

Line = tuple[int, list[str]]
"""Its number in the file, from 1, and its cells."""
ENDINGS = (".csv", ".tsv")
"""Of the second, a tab is what stands between the columns."""


@dataclass(frozen=True)
class Columns:
    """What a person said of a table: the columns to take, by title or number from 1 (none: all), and how it is written."""

    names: tuple[str, ...] = ()
    delimiter: str = ""
    decimal: str = "."

    @classmethod
    def of(cls, names: str, delimiter: str, decimal: str) -> "Columns":
        """From the options --columns, --delimiter ("": by the file's name) and --decimal. Raises ValueError."""
        between = {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter)
        if len(between) > 1:
            raise ValueError(f"--delimiter is {delimiter!r}, expected one character, or tab")
        if decimal not in (".", ","):
            raise ValueError(f"--decimal is {decimal!r}, expected a point or a comma")
        return cls(tuple(name.strip() for name in names.split(",")) if names else (), between, decimal)

    def between(self, path: Path) -> str:
        return self.delimiter or ("\t" if path.suffix == ".tsv" else ",")


def read(path: Path, width: int, columns: Columns) -> list[Line]:
    """The lines' cells, `width` finite numbers each, written with a point. Raises ValueError where they are not, OSError where
    it cannot be read.

    A first line without a number in it is the titles. Empty lines are left out.
    """
    delimiter = columns.between(path)
    try:
        rows = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter)
        lines = [(number, line) for number, line in enumerate(rows, 1) if line]
    except csv.Error as error:  # such as a quote that is never closed
        raise ValueError(f"{path} is no table: {error}") from error
    if not lines:
        raise ValueError(f"{path} is empty, expected a line for each time step")
    titles = [] if any(is_number(cell, columns.decimal) for cell in lines[0][1]) else [cell.strip() for cell in lines[0][1]]
    body = lines[1:] if titles else lines
    if not body:
        raise ValueError(f"{path} has titles and nothing below them, expected a line for each time step")
    for number, line in body:
        if len(line) != len(lines[0][1]):
            other = advice.other_delimiter(lines[0][1], body[0][1], delimiter)
            raise ValueError(
                f"{path}, line {number} has {counted(len(line))}, expected {len(lines[0][1])} as in line {lines[0][0]}{other}"
            )
    there = len(lines[0][1])
    places = _places(path, columns, titles, there)
    if len(places) != width:
        what = "chosen" if columns.names else f"({', '.join(titles)})" if titles else ""
        told = advice.on_width(body[0][1], titles, places, width, columns.decimal) if not columns.names else ""
        told = advice.other_delimiter(lines[0][1], body[0][1], delimiter) or told
        raise ValueError(f"{path} has {' '.join(filter(None, (counted(len(places)), what)))}, the model takes {width}{told}")
    return [
        (number, [_cell(path, number, line, place, titles, places, width, columns) for place in places])
        for number, line in body
    ]


def counted(columns: int) -> str:
    """ "1 column", "2 columns" """
    return f"{columns} column{'' if columns == 1 else 's'}"


def _text(path: Path) -> str:
    """In UTF-8, or in UTF-16 where its first bytes say so, as Excel writes both."""
    content = path.read_bytes()
    coding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(coding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line} has a byte {content[error.start]:#x}, which is not {coding.removesuffix('-sig').upper()}; "
            f"save the file as UTF-8, as by: iconv -f WINDOWS-1252 -t UTF-8 {path} > new.csv"
        ) from error


def _cell(
    path: Path, number: int, line: list[str], place: int, titles: list[str], places: list[int], width: int, columns: Columns
) -> str:
    cell, title = line[place], repr(titles[place]) if titles else place + 1
    if not is_number(cell, columns.decimal):
        told = advice.on_cell(cell, line, titles, places, width, columns)
        raise ValueError(f"{path}, line {number}, column {title} has {cell!r}, expected a number{told}")
    plain = cell.replace(columns.decimal, ".")
    if not math.isfinite(float(plain)):
        raise ValueError(f"{path}, line {number}, column {title} has {cell!r}, expected a finite number; fill the gap first")
    return plain


def _places(path: Path, columns: Columns, titles: Sequence[str], there: int) -> list[int]:
    """Where the columns are, in the order in which they were named."""
    if not columns.names:
        return list(range(there))
    places = []
    for name in columns.names:
        if name and titles.count(name) > 1:
            numbers = " and ".join(str(place) for place, title in enumerate(titles, 1) if title == name)
            raise ValueError(f"{path} has several columns {name!r}; give the number of the one that is meant: {numbers}")
        if name in titles:
            places.append(titles.index(name))
        elif name.isdigit() and 1 <= int(name) <= there:
            places.append(int(name) - 1)
        else:
            known = f"titles {', '.join(titles)}" if titles else "no titles"
            raise ValueError(f"{path} has no column {name!r}: it has {known}; give a title, or a number from 1 to {there}")
    return places
