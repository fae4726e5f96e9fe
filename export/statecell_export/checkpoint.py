"""A module from a factory's name and its weights from a file."""

import importlib
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from statecell_export.errors import CheckpointError, ExportError

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
"""What torch.load calls a class or function that a checkpoint asks for."""
_SHOWN = 8
"""Keys of each set that an error lists."""


def make(target: str) -> tuple[nn.Module, Any]:
    """The module that "pkg.mod:factory" makes, and the example where it returns one beside it. Raises ExportError."""
    factory = _factory(target)
    try:
        made = factory()
    except Exception as error:
        raise ExportError(f"{target!r} raised {_told(error)}; it is called without arguments and returns the module") from error
    module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise ExportError(f"{target!r} made a {type(module).__name__}, expected an nn.Module, or one and an example")
    return module, example


def _factory(target: str) -> Callable[[], Any]:
    package, _, name = target.partition(":")
    if not package or not name:
        raise ExportError(f"{target!r} cannot be read; write it as pkg.mod:factory")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name and (package == error.name or package.startswith(f"{error.name}.")):
            raise ExportError(f"{target!r}: {error}; run from the folder that holds it, or install it") from error
        raise ExportError(f"{package} needs {error.name}, which is not installed here: {_told(error)}") from error
    except Exception as error:
        raise ExportError(f"importing {package} raised {_told(error)}") from error
    try:
        factory: Callable[[], Any] = getattr(found, name)
    except AttributeError as error:
        raise ExportError(f"{target!r}: {error}") from error
    return factory


def _told(error: Exception) -> str:
    """The error, and the line of the user's own that raised it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__ and "importlib" not in f.filename]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def load(module: nn.Module, path: Path) -> None:
    """Put the file's weights into `module`. Raises CheckpointError.

    The file may come from anyone: only tensors and plain containers are read from it (weights_only=True). The weights may lie
    within other things ("state_dict", "model", …) and their keys may have a prefix ("module.", "model._orig_mod.", …).
    """
    found, own, kind = _read(path), module.state_dict(), type(module).__name__
    weights = _fitting(path, found, own, kind)
    for key, value in own.items():
        if value.shape != weights[key].shape:
            raise CheckpointError(
                f"{path}: {key!r} is {list(weights[key].shape)}, {kind} has {list(value.shape)}; "
                "give the factory the sizes that it was trained with"
            )
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:  # quantised, or of a dtype that does not convert
        raise CheckpointError(f"{path}: {kind} does not take these weights: {error}") from error


def _read(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd about the file; what is wrong with it is raised
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except Exception as error:  # a file that is no checkpoint can make torch.load raise anything
        raise CheckpointError(_unreadable(path, error)) from error


def _unreadable(path: Path, error: Exception) -> str:
    asked = _GLOBAL.search(str(error))
    if asked is None:
        return f"{path} is no checkpoint that can be read as tensors; save one by torch.save(module.state_dict(), path)"
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # of the format before 2020
        names = [asked[1]]
    if any(name.startswith("torch.nn.modules.") for name in names):
        return (
            f"{path} is a whole module ({', '.join(names)}), which cannot be read without running code from the file; where "
            "its class can be imported, save its weights alone: torch.save(module.state_dict(), path)"
        )
    return (
        f"{path} holds {', '.join(names)} beside its tensors, which is not read from a file that may come from anyone; "
        "save the weights alone: torch.save(module.state_dict(), path)"
    )


def _fitting(path: Path, found: Any, own: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The one set of weights in the file that has the module's keys. Raises CheckpointError where there is none, or several."""
    held = dict(_weights(found))
    if not held:
        raise CheckpointError(
            f"{path} holds a {type(found).__name__} without tensors by name, expected a dict of them, as of module.state_dict()"
        )
    fitting, closest, shared = {}, {}, 0
    for where, weights in held.items():
        for prefix in _prefixes(weights, own):
            inner = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
            if set(inner) == set(own):
                fitting[f"{where}{prefix}".strip(": .") or "the outermost"] = inner
            elif len(set(inner) & set(own)) > shared:
                closest, shared = inner, len(set(inner) & set(own))
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    if fitting:
        raise CheckpointError(
            f"{path} has several sets of weights that fit {kind}: {', '.join(fitting)}; save by itself the one that is meant"
        )
    if closest:
        missing, unexpected = sorted(set(own) - set(closest)), sorted(set(closest) - set(own))
        raise CheckpointError(
            f"{path} does not fit {kind}: missing {', '.join(missing) or 'nothing'}; "
            f"unexpected {', '.join(unexpected) or 'nothing'}; give the factory the sizes that it was trained with"
        )
    came = [f"{where}{key}" for where, weights in held.items() for key in weights]
    raise CheckpointError(
        f"{path} holds nothing that {kind} has. It holds {_listed(came)}; {kind} has {_listed(list(own))}. "
        "Is it the checkpoint of this module?"
    )


def _weights(found: Any, where: str = "") -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Every dict that holds tensors by name, and where it lies."""
    if not isinstance(found, Mapping):
        return
    tensors = {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield where, tensors
    for key, value in found.items():
        if isinstance(key, str):
            yield from _weights(value, f"{where}{key}: ")


def _prefixes(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """What may stand before the module's keys in the file's."""
    found = {"": None}
    for key in weights:
        parts = key.split(".")
        for cut in range(1, len(parts)):
            if ".".join(parts[cut:]) in own:
                found[".".join(parts[:cut]) + "."] = None
    return list(found)


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
