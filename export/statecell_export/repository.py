"""A version in the model repository: written aside, then renamed, so that a reader never sees half of one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from statecell_export.errors import ExportError


def check_name(name: str, version: int) -> None:
    """Raises ExportError where these cannot be folders."""
    if not name or name.startswith(".") or "/" in name or os.sep in name:
        raise ExportError(f"model name {name!r} cannot be a folder's name; use letters, digits, '-', '_' and '.'")
    if version < 1:
        raise ExportError(f"version is {version}, expected at least 1")


@contextmanager
def new_version(out: str | Path, name: str, version: int) -> Iterator[Path]:
    """A folder to write into, which becomes out/name/version when the block ends well and is gone when it does not."""
    check_name(name, version)
    root = Path(out)
    existed = root.exists()
    root.mkdir(parents=True, exist_ok=True)
    target = root / name / str(version)
    aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
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
