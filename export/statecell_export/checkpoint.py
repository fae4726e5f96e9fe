"""The weights of a module from a file: which of all that it holds are meant."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from statecell_export.errors import CheckpointError
from statecell_export.weights_file import read

_SHOWN = 8
"""Keys of each set that an error lists."""


def load(module: nn.Module, path: Path) -> None:
    """Put the file's weights into `module`. Raises CheckpointError.

    The file may come from anyone: only tensors and plain containers are read from it (weights_only=True). The weights may lie
    within other things ("state_dict", "model", …) and their keys may have a prefix ("module.", "model._orig_mod.", …).
    """
    found, own, kind = read(path), module.state_dict(), type(module).__name__
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
            f"{path} has several sets of weights that fit {kind}: {', '.join(fitting)}; save by itself the one that is meant, "
            f"as by torch.save(torch.load({str(path)!r}){_keys(next(iter(fitting)))}, 'weights.pt')"
        )
    if closest:
        missing, unexpected = sorted(set(own) - set(closest)), sorted(set(closest) - set(own))
        differ = [f"{who} has {_listed(keys)} besides" for who, keys in ((kind, missing), ("it", unexpected)) if keys]
        raise CheckpointError(
            f"{path} does not fit {kind}: {'; '.join(differ)}; make the module as it was when it was trained, with the same "
            "layers under the same names, or change the names in the checkpoint"
        )
    came = [f"{where}{key}" for where, weights in held.items() for key in weights]
    raise CheckpointError(
        f"{path} holds nothing that {kind} has. It holds {_listed(came)}; {kind} has {_listed(list(own))}. "
        "Is it the checkpoint of this module?"
    )


def _keys(place: str) -> str:
    """As Python looks it up: ["state_dict"]["net"]."""
    return "".join(f"[{key.strip()!r}]" for key in place.split(":")) if place != "the outermost" else ""


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
