"""A module from a factory's name and its weights from a file."""

import importlib
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from statecell_export.errors import CheckpointError, ExportError

_WRAPPERS = ("state_dict", "model_state_dict", "model", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def make(target: str) -> tuple[nn.Module, Any]:
    """The module that "pkg.mod:factory" makes, and the example where it returns one beside it. Raises ExportError."""
    package, _, factory = target.partition(":")
    if not package or not factory:
        raise ExportError(f"{target!r} cannot be read; write it as pkg.mod:factory")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        made = getattr(importlib.import_module(package), factory)()
    except ModuleNotFoundError as error:
        raise ExportError(f"{target!r}: {error}; run from the folder that holds it, or install it") from error
    except AttributeError as error:
        raise ExportError(f"{target!r}: {error}") from error
    module, example = made if isinstance(made, tuple) else (made, None)
    if not isinstance(module, nn.Module):
        raise ExportError(f"{target!r} made a {type(module).__name__}, expected an nn.Module, or one and an example")
    return module, example


def load(module: nn.Module, path: Path) -> None:
    """Put the file's weights into `module`. Raises CheckpointError.

    The file may come from anyone: only tensors and plain containers are read from it (weights_only=True).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd about the file; what is wrong with it is raised
            found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except Exception as error:  # a file that is no checkpoint can make torch.load raise anything
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is no plain checkpoint of tensors ({reason}); save one by torch.save(module.state_dict(), path)"
        ) from error
    weights = _state_dict(path, found)
    own = module.state_dict()
    for prefix in _PREFIXES:
        if not set(weights) & set(own) and all(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    missing, unexpected = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    if missing or unexpected:
        raise CheckpointError(
            f"{path} does not fit {type(module).__name__}: missing {', '.join(missing) or 'nothing'}; "
            f"unexpected {', '.join(unexpected) or 'nothing'}; give the factory the sizes that it was trained with"
        )
    for key, value in own.items():
        if value.shape != weights[key].shape:
            raise CheckpointError(
                f"{path}: {key!r} is {list(weights[key].shape)}, {type(module).__name__} has {list(value.shape)}; "
                "give the factory the sizes that it was trained with"
            )
    module.load_state_dict(weights)


def _state_dict(path: Path, found: Any) -> Mapping[str, torch.Tensor]:
    for key in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise CheckpointError(
            f"{path} holds a {type(found).__name__}, expected a dict of tensors, as module.state_dict() gives"
        )
    return found
