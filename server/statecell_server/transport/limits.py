"""Limits: what clients may ask of a server's transport, whichever it is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bytes and seconds. What breaks one ends the call that does, or the connection, and no other."""

    message: int = 64 << 20
    """Bytes of a request at most."""
    metadata: int = 16 << 10
    """Bytes of a call's headers at most, uncompressed: names, values, and 32 for each."""
    connections: int = 10_000
    memory: int = 1 << 30
    """Bytes of messages and calls that all connections together keep at most; of each, what is beyond its own 64 KiB."""
    idle_seconds: float = 3600.0
    """After which a connection without a call is asked to go."""
