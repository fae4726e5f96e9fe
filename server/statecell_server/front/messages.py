"""Messages: gRPC's, out of the bytes of a stream."""

import zlib
from collections.abc import Sequence

import grpc

from statecell_server.front.frames import PREFIX
from statecell_server.front.headers import Metadata

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class Aborted(Exception):
    """The call ends with this status."""

    def __init__(self, code: grpc.StatusCode, message: str, metadata: Metadata = ()) -> None:
        super().__init__(message)
        self.code, self.metadata = code, metadata


class Messages:
    """`messages.feed(payload)` gives those that are complete with it."""

    __slots__ = ("_encoding", "_held", "_limit", "_needed", "size")

    def __init__(self, limit: int, encoding: str) -> None:
        """`limit`: bytes of a message at most. `encoding`: how those that say that they are compressed are."""
        self.size = 0  # bytes held
        self._held: list[bytes] = []
        self._needed = PREFIX.size
        self._limit = limit
        self._encoding = encoding

    def feed(self, payload: bytes) -> Sequence[bytes]:
        """Raises Aborted: RESOURCE_EXHAUSTED for one that is too large, INTERNAL for one that cannot be decompressed."""
        if not self._held and len(payload) >= PREFIX.size:
            compressed, size = PREFIX.unpack_from(payload)
            if size == len(payload) - PREFIX.size and not compressed:
                self._check(size)
                return (payload[PREFIX.size :],)
        self._held.append(payload)
        self.size += len(payload)
        return self._parts() if self.size >= self._needed else ()

    def _parts(self) -> Sequence[bytes]:
        data, at, found = b"".join(self._held), 0, []
        while True:
            self._needed = PREFIX.size
            if len(data) - at < PREFIX.size:
                break
            compressed, size = PREFIX.unpack_from(data, at)
            self._check(size)
            self._needed += size
            if len(data) - at < self._needed:
                break
            body = data[at + PREFIX.size : at + self._needed]
            found.append(self._decompressed(body) if compressed else body)
            at += self._needed
        self._held = [data[at:]] if at < len(data) else []
        self.size = len(data) - at
        return found

    def _check(self, size: int) -> None:
        if size > self._limit:
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            raise Aborted(code, f"a message has {size} bytes, the most is {self._limit} (--max-message)")

    def _decompressed(self, body: bytes) -> bytes:
        bits = _WINDOW_BITS.get(self._encoding)
        if bits is None:
            code = grpc.StatusCode.INTERNAL
            raise Aborted(code, f"a message is compressed, but grpc-encoding says {self._encoding}")
        stream = zlib.decompressobj(bits)
        try:
            message = stream.decompress(body, self._limit + 1)
        except zlib.error as error:
            raise Aborted(grpc.StatusCode.INTERNAL, f"a message is not {self._encoding}: {error}") from error
        self._check(len(message))
        if not stream.eof:
            raise Aborted(grpc.StatusCode.INTERNAL, f"a message of {self._encoding} ends too early")
        return message
