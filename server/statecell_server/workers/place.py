"""Place: where one worker stands among those of its server."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Worker `index` of `count`, which find each other in `folder`: for each that serves, a socket and a file that says so."""

    index: int
    count: int
    folder: Path

    @property
    def others(self) -> list[int]:
        return [index for index in range(self.count) if index != self.index]

    def socket(self, index: int) -> Path:
        """Where the worker takes what others pass on."""
        return self.folder / f"{index}.socket"

    def serving(self, index: int) -> Path:
        """Is there as long as the worker may pass something on."""
        return self.folder / f"{index}.serving"

    def roll(self) -> Path:
        """By which the successor of this worker knows its sequences as lost."""
        return self.folder / f"{self.index}.roll"

    def incarnation(self, index: int) -> tuple[int, int] | None:
        """Differs for each process that takes the worker's place; None while there is none."""
        try:
            found = os.stat(self.socket(index))
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def clear(self, index: int) -> None:
        """The worker is gone."""
        for path in (self.socket(index), self.serving(index)):
            path.unlink(missing_ok=True)
