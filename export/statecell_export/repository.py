"""A version in the model repository: written aside, then renamed, so that a reader never sees half of one."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from statecell_export.errors import ExportError

_NAME = re.compile(r"[^\W_][\w.-]*")


def check_name(name: str, version: int) -> None:
    """Raises ExportError where these cannot be folders, or would have to be quoted wherever they are written."""
    if not _NAME.fullmatch(name):
        raise ExportError(
            f"model name {name!r} is to be a folder's name and a word in a shell; use letters, digits, '_', '-' and '.', "
            f"a letter or digit first{_suggested(name)}"
        )
    if version < 1:
        raise ExportError(f"version is {version}, expected at least 1")


def _suggested(name: str) -> str:
    word = re.sub(r"[^\w.-]+", "_", name).strip("_.-")
    return f", such as {word}" if word else ""


@contextmanager
def new_version(out: str | Path, name: str, version: int) -> Iterator[Path]:
    """A folder to write into, which becomes out/name/version when the block ends well and is gone when it does not."""
    check_name(name, version)
    root = Path(out)
    existed = root.exists()
    target = root / name / str(version)
    try:
        root.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
    except OSError as error:
        raise ExportError(f"cannot write into {root}: {error.strerror}; name another folder by --out (out=)") from error
    try:
        fresh, old = aside / "new", aside / "old"
        fresh.mkdir()
        yield fresh
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            target.rename(old)
        try:
            fresh.rename(target)
        except BaseException:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(aside)
        if not existed and not any(root.iterdir()):
            root.rmdir()
