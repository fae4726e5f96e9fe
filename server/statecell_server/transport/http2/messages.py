"""Messages: gRPC's, out of the bytes of a stream."""

import zlib
from collections.abc import Sequence

import grpc

from statecell_server.transport.http2.frames import PREFIX
from statecell_server.transport.http2.headers import Metadata

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class Aborted(Exception):
    """The call ends with this status."""

    def __init__(self, code: grpc.StatusCode, message: str, metadata: Metadata = ()) -> None:
        super().__init__(message)
        self.code, self.metadata = code, metadata


class Compressed(bytes):
    """A message as it came. It is decompressed when somebody takes it: many that wait must not be a thousand times as large."""


class Messages:
    """`messages.feed(payload)` gives those that are complete with it."""

    __slots__ = ("_encoding", "_held", "_limit", "_needed", "size")

    def __init__(self, limit: int, encoding: str) -> None:
        """`limit`: bytes of a message at most. `encoding`: how those that say that they are compressed are."""
        self.size = 0  # bytes held
        self._held = bytearray()
        self._needed = PREFIX.size
        self._limit = limit
        self._encoding = encoding

    def feed(self, payload: bytes | memoryview) -> Sequence[bytes]:
        """Raises Aborted: RESOURCE_EXHAUSTED for one that is too large."""
        if not self._held and len(payload) >= PREFIX.size:
            compressed, size = PREFIX.unpack_from(payload)
            if size == len(payload) - PREFIX.size and not compressed:
                self._check(size)
                return (bytes(payload[PREFIX.size :]),)
        self._held += payload
        self.size = len(self._held)
        return self._parts() if self.size >= self._needed else ()

    def _parts(self) -> Sequence[bytes]:
        data, at = memoryview(self._held), 0
        found: list[bytes] = []
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
            found.append(Compressed(body) if compressed else bytes(body))
            at += self._needed
        if at:
            self._held = bytearray(data[at:])
            self.size = len(self._held)
        return found

    def _check(self, size: int) -> None:
        if size > self._limit:
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            raise Aborted(code, f"a message has {size} bytes, the most is {self._limit} (--max-message)")

    def plain(self, body: bytes) -> bytes:
        """What a compressed message says. Raises Aborted where it cannot be decompressed, or is too large then."""
        bits = _WINDOW_BITS.get(self._encoding)
        if bits is None:
            code = grpc.StatusCode.INTERNAL if self._encoding == "identity" else grpc.StatusCode.UNIMPLEMENTED
            raise Aborted(code, f"a message is compressed, and grpc-encoding is {self._encoding}; expected gzip or deflate")
        stream = zlib.decompressobj(bits)
        try:
            message = stream.decompress(body, self._limit + 1)
        except zlib.error as error:
            raise Aborted(grpc.StatusCode.INTERNAL, f"a message is not {self._encoding}: {error}") from error
        self._check(len(message))
        if not stream.eof:
            raise Aborted(grpc.StatusCode.INTERNAL, f"a message of {self._encoding} ends too early")
        return message
