"""Messages as the protocol's JSON has them: all fields by the names in the .proto, 64-bit integers as numbers."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message


def plain(message: Message) -> dict[str, Any]:
    """What json.dumps takes. Messages, and scalars that may be absent, are there where they are set."""
    found = {}
    for field in message.DESCRIPTOR.fields:
        if not field.has_presence or message.HasField(field.name):
            names = {} if field.enum_type is None else {n: v.name for n, v in field.enum_type.values_by_number.items()}
            found[field.name] = _plain(getattr(message, field.name), names)
    return found


def _plain(value: Any, names: Mapping[int, str]) -> Any:
    """`names`: of an enum's values."""
    if isinstance(value, Message):
        return plain(value)
    if isinstance(value, str | int | float):
        return names.get(value, value) if isinstance(value, int) else value
    if hasattr(value, "items"):
        return {name: _plain(entry, names) for name, entry in value.items()}
    return [_plain(entry, names) for entry in value]
