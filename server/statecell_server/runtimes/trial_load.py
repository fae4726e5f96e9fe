"""TrialLoad: a model is loaded and measured in a process of its own first, which it may take down without harm.

A damaged or hostile file can end a process in ways that Python does not see: an abort, a wrong address, all of the memory,
a run without an end. What the trial measured (invariance.Sharing) is handed over, so that it is not measured twice.
"""

import contextlib
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from statecell_server.config import Config
from statecell_server.device import Device
from statecell_server.runtimes.invariance import Sharing
from statecell_server.runtimes.runtime import LoadError

SMALL = 64 << 20
"""Bytes of a file that is read and optimised twice in well under a second."""
MOST_ANSWER = 1 << 16
"""Bytes. The answer comes from a process that a model may have got hold of: it is read as text, and bounded."""


def wanted(config: Config, runtime: str, device: Device, size: int) -> bool:
    """Whether --trial-load has an artifact of so many bytes tried: "auto" where that costs under a second.

    Not where torch would have to be imported or a GPU be opened a second time, and not where a large file would be read twice.
    """
    if config.trial_load != "auto":
        return config.trial_load == "always"
    return runtime == "onnxruntime" and device.kind == "cpu" and size <= SMALL


class Trials:
    """Processes that try models, one model at a time each. For any thread; those that wait for work end with `rest`."""

    def __init__(self) -> None:
        self._idle: list[_Process] = []
        self._busy: set[_Process] = set()
        self._closed = False
        self._lock = threading.Lock()

    def run(self, folder: Path, runtime: str, device: Device, config: Config) -> tuple[str, Sharing]:
        """(the artifact's digest, what may share a run there). Raises LoadError, whatever the model did to its process."""
        with self._lock:
            process = self._idle.pop() if self._idle else _Process()
            self._busy.add(process)
        fit = False
        try:
            answer = process.ask(folder, runtime, device, config)
            fit = True
        finally:
            with self._lock:
                self._busy.discard(process)
                fit = fit and not self._closed
                if fit:
                    self._idle.append(process)
            if not fit:
                process.end()
        return _read(folder, answer)

    def rest(self) -> None:
        """Ends the processes that wait for work: there is none for a while."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.end()

    def close(self) -> None:
        """Ends all of them, whatever they do."""
        self.rest()
        with self._lock:
            self._closed = True
            busy = list(self._busy)
        for process in busy:
            process.end()


class _Process:
    """trial_child.py in a process of its own."""

    def __init__(self) -> None:
        self._said = _scratch()  # its standard error: a pipe that nobody reads would fill up
        command = [sys.executable, "-m", "statecell_server.runtimes.trial_child"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, bufsize=0)

    def _tell(self, what: object) -> None:
        assert self._process.stdin is not None, "it is a pipe"
        with contextlib.suppress(BrokenPipeError):  # it has ended: `ask` finds that, and why
            pickle.dump(what, self._process.stdin)

    def ask(self, folder: Path, runtime: str, device: Device, config: Config) -> bytes:
        """Its answer. Raises LoadError where it gave none."""
        assert self._process.stdout is not None, "it is a pipe"
        # A store is no business of a model's, with its password.
        self._tell((folder, runtime, device, replace(config, store="", store_password_file=None)))
        seconds = config.load_seconds
        until, answer = time.monotonic() + seconds, b""
        while not answer.endswith(b"\n"):
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise LoadError(
                    f"{folder} was given up: loading it and running it on random numbers took more than {seconds:g} s "
                    "in a process of its own (--load-seconds)"
                )
            piece = self._process.stdout.read(4096)
            answer += piece
            if not piece or len(answer) > MOST_ANSWER:
                raise LoadError(f"{folder} ended the process that tried it: {self._ended()}")
        return answer

    def _ended(self) -> str:
        self._process.kill()
        code = self._process.wait()
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        last = _last_line(self._said)
        return f"{how}; its last words were {last!r}" if last else how

    def end(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the kernel, on a file that does not come
            self._process.wait(5)
        self._said.close()


def _scratch() -> IO[bytes]:
    """A file without a name. In memory where the system has that: a read-only container has no place for temporary files."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("trial"), "w+b")
    return tempfile.TemporaryFile()


def _last_line(file: IO[bytes]) -> str:
    size = file.seek(0, 2)
    file.seek(max(size - 2000, 0))
    lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip()[-300:] for line in reversed(lines) if line.strip()), "")


def _read(folder: Path, answer: bytes) -> tuple[str, Sharing]:
    """What an answer says. Raises LoadError, with the model's reason or because it makes no sense."""
    try:
        said: dict[str, Any] = json.loads(answer)
        if "refused" in said:
            raise LoadError(str(said["refused"]))
        sharing = Sharing(**said["sharing"])
        for name, kind in (("max_batch", int), ("min_batch", int), ("alone", bool), ("variance", str), ("note", str)):
            if not isinstance(getattr(sharing, name), kind):
                raise TypeError(name)
        return str(said["digest"]), sharing
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise LoadError(f"{folder} made the process that tried it answer {answer[:80]!r}") from error
