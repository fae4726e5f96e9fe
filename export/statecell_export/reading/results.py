"""What forward returned, in a shape that PyTorch's own tools can look into."""

import dataclasses
from typing import Any


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
