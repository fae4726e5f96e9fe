"""Finding: what a probe saw."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """`said` is the line of the table; `figures` all that was measured, as JSON has it."""

    holds: bool
    said: str
    figures: dict[str, Any] = field(default_factory=dict)
