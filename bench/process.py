"""Processes on a core of their own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LOGS = ROOT / "bench" / ".cache" / "logs"
_numbers = count()


class ProcessError(Exception):
    """A process that was measured failed; the message ends with what it wrote."""


@dataclass(frozen=True)
class Server:
    """One that listens."""

    address: str
    pid: int
    log: Path

    def batches(self) -> dict[int, int]:
        """{rows: runs} over the life of a statecell-server that has stopped."""
        line = re.search(r"ran batches of \(rows x runs\): (.*)", self.log.read_text())
        if line is None:
            raise ProcessError(f"the server did not say its batch sizes:\n{self.log.read_text()}")
        return {int(rows): int(runs) for rows, runs in re.findall(r"(\d+)x(\d+)", line[1])}

    def memory(self) -> int:
        """Its resident bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def module(name: str, *arguments: object) -> list[str]:
    """The command that runs a Python module."""
    return [sys.executable, "-m", name, *map(str, arguments)]


def start(command: Sequence[str], core: int, **options: Any) -> "subprocess.Popen[bytes]":
    """A child that never runs anywhere but on `core`: it inherits the affinity of the thread that starts it."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        return subprocess.Popen(command, cwd=ROOT, **options)
    finally:
        os.sched_setaffinity(0, before)


def output(command: Sequence[str], core: int, given: bytes = b"") -> tuple[bytes, str]:
    """What it wrote to stdout and to stderr. Raises ProcessError."""
    with start(command, core, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(given)
    if process.returncode:
        raise ProcessError(f"{' '.join(command[:4])} ended with {process.returncode}:\n{err.decode()}")
    return out, err.decode()


@contextmanager
def listening(command: Sequence[str], core: int) -> Iterator[Server]:
    """A server that prints "listening on HOST:PORT", until the end of the block. Raises ProcessError."""
    log = LOGS / f"{next(_numbers)}.log"
    LOGS.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stderr, start(command, core, stdout=subprocess.PIPE, stderr=stderr) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode().strip()
            if not line.startswith("listening on "):
                raise ProcessError(f"{' '.join(command[:4])} did not start:\n{log.read_text()}")
            yield Server(line.split()[-1], process.pid, log)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
