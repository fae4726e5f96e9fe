"""Artifact: a model's file, read whole; whatever else lies under its name is refused at once and holds up nobody."""

import io
import os
import stat
import zipfile
from pathlib import Path

from statecell_server.runtimes.runtime import LoadError

MOST_BYTES = 8 << 30
"""Of a file; ONNX's own format ends at 2 GiB."""
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


def read(path: Path) -> bytes:
    """The file's content. Raises LoadError where it is no file, is too large, or changes meanwhile."""
    try:
        _require_file(path, os.stat(path))  # before it is opened: opening a pipe waits, opening a device may act
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            _require_file(path, status)
            content = file.read(status.st_size + 1)
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) != status.st_size:
        raise LoadError(f"{path} changed while it was read: write it under another name, such as model.part, and rename it")
    return content


def require_zip(path: Path) -> None:
    """Raises LoadError where the file is none of TorchScript's, which are zip archives."""
    if not zipfile.is_zipfile(io.BytesIO(read(path))):
        raise LoadError(f"{path} is no TorchScript: it is not a zip archive, or has no end")


def _require_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "a device")
        raise LoadError(f"{path} is {kind}, expected a file")
    if status.st_size > MOST_BYTES:
        raise LoadError(f"{path} has {status.st_size} bytes, the most is {MOST_BYTES}")
