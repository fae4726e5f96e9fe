"""Protobuf's encoding, as far as messages are read and written here in pieces that repeat.

Parsing a message and asking for its fields costs several times what a step's own work does, and nearly all of its bytes are the
same as in the last one. So a message is cut where only its data can differ, and what is around the data is parsed once.
"""

from collections.abc import Hashable
from typing import TypeVar

_SMALL = [bytes([n]) for n in range(128)]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def varint(number: int) -> bytes:
    """An int64 or uint64: seven bits a byte, the lowest first; negative ones as 64 bits."""
    if 0 <= number < 128:
        return _SMALL[number]
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned number that begins at `at`, and where the next field begins. Raises IndexError, ValueError."""
    number = data[at]
    at += 1
    if number < 128:
        return number, at
    number &= 127
    for shift in range(7, 64, 7):
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise ValueError("a varint of more than nine bytes")


def field(number: int, content: bytes) -> bytes:
    """A field of bytes, a string or a message; its number is below 16."""
    return b"%c%b%b" % (number << 3 | 2, varint(len(content)), content)


class Seen(dict[K, V]):
    """What was found out about pieces of messages. All is forgotten where it becomes too much."""

    def __init__(self, most: int) -> None:
        """`most`: pieces kept at once."""
        super().__init__()
        self._most = most

    def keep(self, piece: K, found: V) -> V:
        """`found`, which is there under `piece` from now on."""
        if len(self) >= self._most:
            self.clear()
        self[piece] = found
        return found
