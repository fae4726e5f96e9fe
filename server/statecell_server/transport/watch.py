"""Watch: what is told of every call, whatever carries it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

Over = Callable[[str], None]
"""Called once, when a call has ended, with the name of its code."""
LONGEST_ID = 128


class Begun(NamedTuple):
    """A call that begins."""

    rpc: str
    """Its path; with its method in front of it for plain HTTP."""
    peer: str
    """HOST:PORT of who calls, or who stands between."""
    request_id: str = ""
    """The client's own, from `x-request-id`."""
    traceparent: str = ""
    """As W3C Trace Context has it."""


class Watch(Protocol):
    """`over = watch(Begun("/statecell.v1.InferenceService/Step", "127.0.0.1:40000"))`, and later `over("OK")`."""

    def __call__(self, begun: Begun) -> Over:
        """A call begins."""


def together(watches: Sequence[Watch]) -> Watch | None:
    """One for all of them; None where there are none."""
    if len(watches) < 2:
        return watches[0] if watches else None

    def watch(begun: Begun) -> Over:
        overs = [one(begun) for one in watches]

        def over(code: str) -> None:
            for one in overs:
                one(code)

        return over

    return watch


def printable(text: str) -> str:
    """An id as a client has sent it, fit for a line of a log."""
    text = text[:LONGEST_ID]
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1][:LONGEST_ID]


def named(address: object) -> str:
    """A socket's address as HOST:PORT."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = str(address[0]), address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(address or "")
