"""A module from the name of what makes it."""

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from statecell_export.errors import ExportError


def make(target: str) -> tuple[nn.Module, Any]:
    """The module that "pkg.mod:factory" makes, and the example where it returns one beside it. Raises ExportError.

    "pkg/mod.py:factory" is the same. What is there under that name may be the module itself.
    """
    factory = _factory(target)
    if isinstance(factory, nn.Module):
        return factory, None
    if _needs(factory):
        name = target.partition(":")[2]
        raise ExportError(
            f"{target!r} needs {_needs(factory)}, and is called without arguments; write a function that gives them, as in "
            f"def make(): return {name}(…), and name it in its place"
        )
    try:
        with _unheard(target):
            made = factory()
    except Exception as error:
        raise ExportError(f"{target!r} raised {_told(error)}; it is called without arguments and returns the module") from error
    module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise ExportError(f"{target!r} made a {type(module).__name__}, expected an nn.Module, or one and an example")
    return module, example


def _factory(target: str) -> Callable[[], Any]:
    place, _, name = target.partition(":")
    if not place or not name:
        raise ExportError(f"{target!r} cannot be read; write it as pkg.mod:factory or pkg/mod.py:factory")
    package = _package(place)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        with _unheard(target):
            found = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name and (package == error.name or package.startswith(f"{error.name}.")):
            raise ExportError(f"{target!r}: {error}; run from the folder that holds it, or install it") from error
        raise ExportError(f"{package} needs {error.name}, which is not installed here: {_told(error)}") from error
    except ExportError:
        raise
    except ImportError as error:
        inner = f"{Path.cwd().name}.{package}:{name}"
        above = (
            f"; it is part of a package: run from the folder that holds that, as {inner}" if "relative" in str(error) else ""
        )
        raise ExportError(f"importing {package} raised {_told(error)}{above}") from error
    except Exception as error:
        raise ExportError(f"importing {package} raised {_told(error)}") from error
    factory: Callable[[], Any] | None = getattr(found, name, None)
    if factory is None:
        raise ExportError(f"{target!r}: module {package!r} has no attribute {name!r}{_nearest(found, name)}")
    return factory


def _package(place: str) -> str:
    """What to import: of a file below this folder, its name within it. Raises ExportError for one that lies elsewhere."""
    if not place.endswith(".py") and "/" not in place:
        return place
    path = Path(place).with_suffix(".py")
    if not path.is_file():
        raise ExportError(f"there is no file {path}")
    try:
        inner = path.resolve().relative_to(Path.cwd())
    except ValueError:
        raise ExportError(f"{place} lies outside of this folder; run from the folder that holds it, or install it") from None
    return ".".join(inner.with_suffix("").parts)


@contextmanager
def _unheard(target: str) -> Iterator[None]:
    """The user's code sees no arguments of this command, and cannot end it. Raises ExportError where it would."""
    place, arguments = target.partition(":")[0], sys.argv
    sys.argv = [place]
    try:
        yield
    except SystemExit as error:
        raise ExportError(
            f"{place} ends the process when it is imported or called ({_ending(error)}): it trains or reads its command line "
            "there; put that below if __name__ == '__main__':, or the class into a file of its own"
        ) from error
    finally:
        sys.argv = arguments


def _ending(error: SystemExit) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_theirs(f.filename)]
    where = f", {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"exit {error.code}{where}"


def _needs(factory: Any) -> str:
    """The arguments without which it cannot be called."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # not callable, which the call says, or of C
        return ""
    positional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return ", ".join(p.name for p in parameters if p.default is p.empty and p.kind not in positional)


def _nearest(found: ModuleType, name: str) -> str:
    own = [key for key, value in vars(found).items() if callable(value) and getattr(value, "__module__", "") == found.__name__]
    close = [*get_close_matches(name.partition("(")[0], own), *own][:4]
    return f"; it has {', '.join(dict.fromkeys(close))}" if close else ""


def _is_theirs(filename: str) -> bool:
    return filename != __file__ and not any(part in filename for part in ("importlib", "argparse.py", "contextlib.py"))


def _told(error: Exception) -> str:
    """The error, and the line of the user's own that raised it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_theirs(f.filename)]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
