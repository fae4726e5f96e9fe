"""A server of one's own: a child process that lives as long as a `with` block."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import IO

READY = "listening on "
START_SECONDS = 60.0
STOP_SECONDS = 30.0


class ServerFailedError(RuntimeError):
    """The server did not start or stop as it should. Its own error is in the message: read that, and mend its cause."""


@contextmanager
def serving(models: Path) -> Iterator[str]:
    """`with serving(Path("models")) as address:` starts a server on a free port and stops it with SIGTERM at the end.

    Raises ServerFailedError where it is not ready within START_SECONDS, does not stop within STOP_SECONDS, or ends
    with another exit code than 0. Where the block itself raises, the server is killed.
    """
    command = [sys.executable, "-m", "statecell_server", "--models", str(models), "--host", "127.0.0.1", "--port", "0"]
    # A file takes stderr, for a pipe that nobody empties would stop a server that has much to say.
    with (
        tempfile.TemporaryFile("w+") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        try:
            yield _address(process, stderr)
            _stop(process, stderr)
        finally:
            process.kill()


def _address(process: subprocess.Popen[str], stderr: IO[str]) -> str:
    assert process.stdout is not None
    deadline = Timer(START_SECONDS, process.kill)  # which ends its stdout, and so the loop
    deadline.start()
    try:
        for line in process.stdout:
            if line.startswith(READY):
                return line.removeprefix(READY).strip()
    finally:
        deadline.cancel()
    raise ServerFailedError(f"the server ended, or {START_SECONDS:.0f} s passed, before it was ready{_said(stderr)}")


def _stop(process: subprocess.Popen[str], stderr: IO[str]) -> None:
    process.terminate()
    try:
        code = process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        raise ServerFailedError(f"the server did not stop within {STOP_SECONDS:.0f} s of SIGTERM{_said(stderr)}") from None
    if code != 0:
        raise ServerFailedError(f"the server ended with exit code {code} after SIGTERM, expected 0{_said(stderr)}")


def _said(stderr: IO[str]) -> str:
    stderr.seek(0)
    text = stderr.read().strip()
    return f"; it said:\n{text}" if text else "; it said nothing on stderr"
