"""Device: where a model runs."""

import re
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Device:
    """`Device.parse("cuda:1")`. `auto` stands for cuda:0 where that works, and for the CPU where it does not."""

    kind: str = "cpu"  # cpu, cuda or auto
    index: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError."""
        match = re.fullmatch(r"(cpu|auto|cuda)|cuda:(\d+)", text)
        if match is None:
            raise ValueError(f"{text!r} is not a device, expected cpu, cuda, cuda:N or auto")
        return cls(match[1] or "cuda", int(match[2] or 0))

    def __str__(self) -> str:
        return f"cuda:{self.index}" if self.kind == "cuda" else self.kind
