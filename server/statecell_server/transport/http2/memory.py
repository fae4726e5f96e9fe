"""Memory: what connections keep of bytes that came or are to go, counted over all of them."""

OWN = 64 << 10
"""Bytes that a connection may keep whatever the others do: whoever keeps much leaves them their calls."""


class Memory:
    """Of all of a server's connections, in bytes; of each, what it keeps beyond its own. Belongs to the event loop."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def __str__(self) -> str:
        return f"connections keep {self.used} bytes of messages and calls, the most is {self.limit} (--connection-memory)"


class Held:
    """One connection's part: open calls, incomplete frames, headers and messages, those not taken, answers not sent."""

    __slots__ = ("memory", "size")

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.size = 0

    def add(self, nbytes: int) -> bool:
        """So many more, or fewer. Whether there is room for what it has then; it is counted in any case."""
        before, self.size = self.size, self.size + nbytes
        if self.size <= OWN and before <= OWN:
            return True
        self.memory.used += max(self.size, OWN) - max(before, OWN)
        return self.size <= OWN or self.memory.used <= self.memory.limit

    def drop(self) -> None:
        """The connection is gone, with all that it kept."""
        self.add(-self.size)
