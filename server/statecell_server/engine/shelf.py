"""Shelf: what lies in the models' folder, `<name>/<version>/{model.onnx,model.pt}`, as it was seen at one look."""

import os
import re
from pathlib import Path
from typing import NamedTuple

FILES = ("model.onnx", "model.pt")

Mark = tuple[tuple[str, int, int, int], ...]
"""Of each file its name, time of change, size and number: another mark is another file."""


class Found(NamedTuple):
    """A version's folder."""

    folder: Path
    mark: Mark

    @property
    def name(self) -> str:
        """The model's; what is no text in it (a file's name is any bytes) is written as \\udc80."""
        return _text(self.folder.parent.name)

    @property
    def version(self) -> str:
        return _text(self.folder.name)

    def wrong(self) -> str:
        """What is wrong with its names; "" where nothing is."""
        if not re.fullmatch("[0-9]{1,18}", self.folder.name):
            return f"{_text(str(self.folder))} is not a version: its name must be a number, as in {self.name}/1"
        if self.name != self.folder.parent.name or not self.name.isprintable() or len(self.name) > 200:
            return f"the folder {self.name[:200]!r} is not named as a model: its name must be printable text"
        return ""


def look(models: Path) -> list[Found]:
    """All versions' folders that have a file of a model. For a thread of its own: a network's folder may not answer."""
    # Not those that begin with a dot: an export under way is written there.
    folders = {path.parent for path in models.glob("[!.]*/*/model.*") if path.name in FILES}
    return [Found(folder, _mark(folder)) for folder in sorted(folders)]


def look_at(folder: Path) -> Found | None:
    """The version's folder, if it is there."""
    return Found(folder, mark) if (mark := _mark(folder)) else None


def _mark(folder: Path) -> Mark:
    marks = []
    for name in FILES:
        try:
            status = os.stat(folder / name)
        except FileNotFoundError:
            if (folder / name).is_symlink():
                marks.append((name, -1, -1, -1))  # it leads nowhere
        except OSError as error:
            marks.append((name, -1, -1, error.errno or 0))
        else:
            marks.append((name, status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(marks)


def _text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
