"""What forward returned, in a shape that PyTorch's own tools can look into."""

import dataclasses
from typing import Any

Path = tuple[int | str, ...]
"""Where a leaf is in nested tuples, dicts and the like: places, keys, and fields with a dot before them."""


def plain_path(keys: Any) -> Path:
    """The path by which PyTorch's own tools reach a leaf."""
    names = [getattr(key, "idx", getattr(key, "key", f".{getattr(key, 'name', key)}")) for key in keys]
    return tuple(name if isinstance(name, int) else str(name) for name in names)


def dotted(path: Path) -> str:
    """A path in one word: 1.h, or y."""
    return ".".join(str(part).removeprefix(".") for part in path)


def plain(result: Any) -> Any:
    """Dataclasses as dicts of their fields, wherever they are in it."""
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return {field.name: plain(getattr(result, field.name)) for field in dataclasses.fields(result)}
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return type(result)(*map(plain, result))
    if type(result) in (tuple, list):
        return type(result)(map(plain, result))
    if isinstance(result, dict):
        return {key: plain(value) for key, value in result.items()}
    return result
