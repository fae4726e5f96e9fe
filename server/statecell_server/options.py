"""Options: how each setting is read, bounded and shown, whoever says it: a flag, the environment or a file."""

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from statecell_server.device import Device

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
Read = Callable[[object], Any]


@dataclass(frozen=True)
class Kind:
    """What values an option has: `kind.read("512MiB")`, `kind.read(536870912)`."""

    metavar: str
    expected: str
    """What the message of an error says."""
    take: Read
    """The value of what a flag, the environment (strings) or a file (TOML's types) says. Raises ValueError, TypeError."""
    show: Callable[[Any], object] = lambda value: value
    """The value as a file would have it."""
    fits: Callable[[Any], bool] = lambda _: True

    def read(self, said: object) -> Any:
        """The value. Raises ValueError with what was expected."""
        try:
            value = self.take(said)
        except (ValueError, TypeError, OverflowError):
            raise ValueError(self.expected) from None
        if not self.fits(value):
            raise ValueError(self.expected)
        return value


@dataclass(frozen=True)
class Option:
    """A field of Config that can be set."""

    name: str
    """As the environment and a file have it; the flag has dashes."""
    kind: Kind
    help: str
    per_model: bool = False
    """Whether a model may have one of its own."""
    key: str = ""
    """In a file, where that is another than the name."""
    start: Any = ...
    """What the command begins with, where that is not Config's own default."""
    secret: Callable[[Any], object] | None = None
    """What may be shown of it, where not all may."""

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def environment(self) -> str:
        return f"STATECELL_{self.name.upper()}"


def option(
    default: Any,
    kind: Kind,
    text: str,
    *,
    name: str = "",
    per_model: bool = False,
    key: str = "",
    start: Any = ...,
    secret: Callable[[Any], object] | None = None,
) -> Any:
    """A field of Config: this one place says everything about an option. `name`: where it is not the field's."""
    made = Option(name, kind, text, per_model, key, start, secret)
    return field(default=default, repr=secret is None, metadata={"option": made})


def shown(said: object) -> str:
    """What came, for a message: bounded, and never the thousands of digits that Python refuses to write."""
    if isinstance(said, int) and abs(said) >= 10**20:
        return "a number of more than 20 digits"
    text = str(said).lower() if isinstance(said, bool) else repr(said)
    if isinstance(said, str) and re.fullmatch(r"-?[0-9]{1,20}", said):
        return said  # a flag's number
    return text if len(text) <= 100 else f"{text[:100]}..."


def closest(name: str, names: Iterable[str]) -> str:
    """ " (did you mean max_batch?)", where there is one like it."""
    found = difflib.get_close_matches(name, list(names), 1)
    return f" (did you mean {found[0]}?)" if found else ""


def toml(value: object) -> str:
    """A value as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return str(value)
    # JSON's strings are TOML's, but for DEL, which TOML wants escaped.
    text = str(value).encode("utf-8", "replace").decode()
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _string(said: object) -> str:
    if not isinstance(said, str):
        raise TypeError
    return said


def _whole(said: object) -> int:
    if isinstance(said, bool) or not isinstance(said, int | str) or (isinstance(said, str) and len(said) > 30):
        raise TypeError
    return int(said)


def _number(said: object) -> float:
    if isinstance(said, bool) or not isinstance(said, int | float | str):
        raise TypeError
    return float(said)


def _yes(said: object) -> bool:
    if isinstance(said, bool):
        return said
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[_string(said).lower()]


def _size(said: object) -> int:
    if not isinstance(said, str):
        return _whole(said)
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([KMG]?)(?:i?B)?", said.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError
    return int(float(match[1]) * UNITS[match[2].upper()])


def _size_shown(value: int) -> object:
    for unit in "GMK":
        if value and value % UNITS[unit] == 0:
            return f"{value // UNITS[unit]}{unit}iB"
    return value


def _save_every(said: object) -> int:
    if isinstance(said, int) and not isinstance(said, bool):
        return said
    match = re.fullmatch(r"every_step|every=([0-9]{1,9})", _string(said).strip())
    if match is None:
        raise ValueError
    return int(match[1] or 1)


def text(metavar: str, expected: str = "a string") -> Kind:
    return Kind(metavar, expected, _string)


def url(*schemes: str) -> Kind:
    expected = f"{' or '.join(f'{scheme}://HOST:PORT' for scheme in schemes)}, without a user or password"
    pattern = rf"(?:{'|'.join(schemes)})://(?:[\w.-]+|\[[0-9a-fA-F:.]+\])(?::[0-9]{{1,5}})?/?"
    return Kind("URL", expected, _string, fits=lambda said: re.fullmatch(pattern, said) is not None)


def whole(least: int, most: int, expected: str = "") -> Kind:
    return Kind("INTEGER", expected or f"a whole number of {least} to {most}", _whole, fits=lambda n: least <= n <= most)


def seconds(least: float, most: float) -> Kind:
    return Kind("SECONDS", f"seconds of {least:g} to {most:g}", _number, fits=lambda n: least <= n <= most)


def size(least: int, most: int) -> Kind:
    expected = f"a size such as 512MiB or 2GiB, of {_size_shown(least)} to {_size_shown(most)}"
    return Kind("SIZE", expected, _size, _size_shown, lambda n: least <= n <= most)


def choice(*words: str) -> Kind:
    expected = f"{', '.join(words[:-1])} or {words[-1]}"
    return Kind("|".join(words), expected, _string, fits=lambda word: word in words)


YES = Kind("", "true or false", _yes)
LEVEL = Kind(
    "LEVEL",
    "DEBUG, INFO, WARNING or ERROR",
    lambda said: _string(said).upper(),
    fits=lambda level: level in ("DEBUG", "INFO", "WARNING", "ERROR"),
)
FILE = Kind("PATH", "a path", lambda said: Path(_string(said)), str)
DEVICE = Kind(
    "DEVICE",
    "cpu, cuda, cuda:N or auto",
    lambda said: said if isinstance(said, Device) else Device.parse(_string(said)),
    str,
)
DURABILITY = Kind(
    "every_step|every=N",
    "every_step or every=N with N of 1 to 1000000",
    _save_every,
    lambda every: "every_step" if every == 1 else f"every={every}",
    lambda every: 1 <= every <= 1_000_000,
)
