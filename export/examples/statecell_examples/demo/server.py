"""A statecell server as a child process, for as long as a `with` block lasts."""

import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Self

READY = "listening on "
START_SECONDS = 60.0
STOP_SECONDS = 30.0


class ServerFailedError(RuntimeError):
    """The server did not start or did not stop as it should. The message ends with what it wrote on stderr."""


class Server:
    """`with Server(Path("models")) as address:` starts it on a free port and stops it with SIGTERM.

    Raises ServerFailedError where it is not ready within START_SECONDS, does not stop within STOP_SECONDS, or exits
    with a code other than 0.
    """

    def __init__(self, models: Path) -> None:
        self._models = models

    def __enter__(self) -> str:
        with ExitStack() as on_failure:
            # A file, for a pipe that nobody empties would stop a server that logs much.
            self._stderr = on_failure.enter_context(tempfile.TemporaryFile("w+"))
            self._process = subprocess.Popen(
                [sys.executable, "-m", "statecell_server", "--models", self._models, "--host", "127.0.0.1", "--port", "0"],
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                text=True,
            )
            on_failure.callback(self._kill)
            address = self._wait_until_ready()
            on_failure.pop_all()
        return address

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        with self._stderr, ExitStack() as finally_:
            finally_.callback(self._kill)
            self._process.terminate()
            try:
                code = self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                raise self._failed(f"did not stop within {STOP_SECONDS:.0f} s of SIGTERM") from None
            if code != 0 and error is None:
                raise self._failed(f"exited with code {code} after SIGTERM, expected 0")
