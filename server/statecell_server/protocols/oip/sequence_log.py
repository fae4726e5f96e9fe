"""SequenceLog: a file that tells the next server which sequences were live on this one."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

SLACK = 10_000
"""Lines more than names, after which the file is written anew."""


class DamagedLog(ValueError):
    """The operator's to mend: the file is none of ours, or was written to by somebody else. Move it away to begin without."""


class SequenceLog:
    """Clients name sequences themselves, so a name alone does not tell a lost sequence from one that never was; this does.

    A line for each sequence that begins (`+`), ends (`-`) or was lost (`!`, when), as the system has it the moment it is
    written: it survives a server that is killed, not a machine that is.
    """

    def __init__(self, path: Path | None, ttl: float) -> None:
        """`ttl`: seconds for which a sequence is remembered as lost. Without a path nothing is kept.

        Raises OSError, DamagedLog.
        """
        self._path = path
        self._ttl = ttl
        self._lost: dict[str, float] = {}
        self._live: set[str] = set()
        if path is not None:
            self._read(path)
            self._lost |= dict.fromkeys(self._live, time.time())
            self._live.clear()
            self._write(path)

    def __contains__(self, name: str) -> bool:
        """Whether an earlier server had it live when it stopped."""
        return self._lost.get(name, -self._ttl) + self._ttl > time.time()

    def begin(self, name: str) -> None:
        self._lost.pop(name, None)
        self._live.add(name)
        self._append(f"+{json.dumps(name)}")

    def end(self, name: str) -> None:
        if name in self._live:
            self._live.discard(name)
            self._append(f"-{json.dumps(name)}")

    def close(self) -> None:
        if self._path is not None:
            self._file.close()

    def _append(self, line: str) -> None:
        if self._path is None:
            return
        self._file.write(f"{line}\n".encode())
        self._lines += 1
        if self._lines > 2 * len(self._live) + len(self._lost) + SLACK:
            self._file.close()
            self._write(self._path)

    def _read(self, path: Path) -> None:
        if not path.exists():
            return
        if not path.is_file():  # reading a pipe would wait
            raise DamagedLog("it is not a file")
        *lines, _ = path.read_bytes().split(b"\n")  # what is behind the last newline was not written to its end
        for number, line in enumerate(lines, 1):
            try:
                self._read_line(line[:1], json.loads(line[1:]))
            except (ValueError, RecursionError) as error:
                raise DamagedLog(f"line {number} is {line[:40]!r}") from error

    def _read_line(self, kind: bytes, entry: object) -> None:
        match kind, entry:
            case b"!", [str(name), float(when) | int(when)]:
                self._lost[name] = when
            case b"+", str(name):
                self._live.add(name)
                self._lost.pop(name, None)
            case b"-", str(name):
                self._live.discard(name)
            case _:
                raise ValueError(f"there is no entry {kind!r} of {type(entry).__name__}")

    def _write(self, path: Path) -> None:
        """The file anew, and open to go on."""
        self._lost = {name: when for name, when in self._lost.items() if name in self}
        lines = list(self._entries())
        new = path.with_name(path.name + ".new")
        new.write_text("".join(lines))
        os.replace(new, path)
        self._lines = len(lines)
        self._file = path.open("ab", buffering=0)

    def _entries(self) -> Iterator[str]:
        for name, when in self._lost.items():
            yield f"!{json.dumps([name, when])}\n"
        for name in self._live:
            yield f"+{json.dumps(name)}\n"
