"""A client that sends what frames it likes."""

import gzip
import socket
import struct
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self

from hpack import Decoder, Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST = (1 << 31) - 1
PATIENCE = 120.0
"""Seconds until a test gives up; nothing is expected to take long."""


def message(body: bytes, *, compressed: bool = False) -> bytes:
    """With gRPC's prefix."""
    body = gzip.compress(body) if compressed else body
    return struct.pack(">BI", compressed, len(body)) + body


def messages(data: bytes) -> list[bytes]:
    """Without; all must be complete."""
    found = []
    while data:
        compressed, size = struct.unpack_from(">BI", data)
        assert not compressed
        assert len(data) >= 5 + size
        found.append(data[5 : 5 + size])
        data = data[5 + size :]
    return found


def heads(path: str, more: Mapping[str, str] = MappingProxyType({})) -> list[tuple[str, str]]:
    """A call's headers. `more`: others, or others in their place."""
    fixed = {":method": "POST", ":scheme": "http", ":path": path, "content-type": "application/grpc", "te": "trailers"}
    return list((fixed | dict(more)).items())


@dataclass
class Answer:
    """What came on a stream."""

    headers: list[dict[str, str]] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def status(self) -> int:
        """grpc-status."""
        return int(self.headers[-1]["grpc-status"])

    @property
    def messages(self) -> list[bytes]:
        return messages(bytes(self.data))


class Raw:
    """`with Raw(address) as raw: raw.call("/test.Echo/Say", b"x")`. Reads only when it is told to."""

    def __init__(
        self, address: str, *, greet: bool = True, window: int = LARGEST, settings: dict[int, int] | None = None
    ) -> None:
        """`window`: bytes that the server may send on each stream; on the connection it may send all there are."""
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answers: defaultdict[int, Answer] = defaultdict(Answer)
        self.seen: list[Frame] = []
        self.granted: defaultdict[int, int] = defaultdict(int)  # bytes by which the server has widened the windows
        self.goaway: GoAwayFrame | None = None
        self.closed = False
        self.stream = -1  # the last one
        self._encoder, self._decoder = Encoder(), Decoder()
        self._rest = b""
        if greet:
            self.socket.sendall(PREFACE)
            self.send(SettingsFrame(0, settings={4: window, **(settings or {})}), WindowUpdateFrame(0, LARGEST - 65_535))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *frames: Frame | bytes) -> None:
        self.socket.sendall(b"".join(f if isinstance(f, bytes) else f.serialize() for f in frames))

    def block(self, headers: Sequence[tuple[str, str]]) -> bytes:
        block: bytes = self._encoder.encode(headers)
        return block

    def headers(
        self, path: str, *, end: bool = False, stream: int = 0, more: Mapping[str, str] = MappingProxyType({})
    ) -> HeadersFrame:
        """Those of the next call; not sent yet."""
        if not stream:
            self.stream += 2
        flags = ["END_HEADERS", "END_STREAM"] if end else ["END_HEADERS"]
        return HeadersFrame(stream or self.stream, self.block(heads(path, more)), flags=flags)

    def data(self, data: bytes = b"", *, end: bool = False, stream: int = 0) -> DataFrame:
        """On the last call, or another; not sent yet."""
        return DataFrame(stream or self.stream, data, flags=["END_STREAM"] if end else [])

    def call(self, path: str, *bodies: bytes, end: bool = True, more: Mapping[str, str] = MappingProxyType({})) -> int:
        """Sends a call with these messages; its stream."""
        frames: list[Frame] = [self.headers(path, more=more)]
        whole = b"".join(map(message, bodies))
        frames += [self.data(whole[at : at + 16_384]) for at in range(0, len(whole), 16_384)]
        if end:
            frames.append(self.data(end=True))
        self.send(*frames)
        return self.stream

    def answer(self, stream: int) -> Answer:
        """What comes until the stream is over."""
        self.until(lambda: self.answers[stream].over or self.closed)
        return self.answers[stream]

    def ask(self, path: str, *bodies: bytes, more: Mapping[str, str] = MappingProxyType({})) -> Answer:
        return self.answer(self.call(path, *bodies, more=more))

    def until(self, true: Callable[[], bool]) -> None:
        """Reads until it is."""
        while not true():
            assert self.read(), "the connection is closed"

    def ping(self) -> None:
        """All that was sent before has been read by the server."""
        self.send(PingFrame(0, opaque_data=b"question"))
        seen = len(self.seen)
        self.until(lambda: any(isinstance(f, PingFrame) and "ACK" in f.flags for f in self.seen[seen:]))

    def ending(self) -> int | None:
        """Reads until the server closes the connection; the code of its GOAWAY."""
        while self.read():
            pass
        return None if self.goaway is None else int(self.goaway.error_code)

    def read(self) -> bool:
        """What there is; False where the connection is at its end."""
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
            return False
        data = self._rest + data
        at = 0
        while len(data) - at >= 9:
            frame, size = Frame.parse_frame_header(memoryview(data)[at : at + 9])
            if len(data) - at < 9 + size:
                break
            frame.parse_body(memoryview(data)[at + 9 : at + 9 + size])
            at += 9 + size
            self._take(frame)
        self._rest = data[at:]
        return True

    def _take(self, frame: Frame) -> None:
        self.seen.append(frame)
        answer = self.answers[frame.stream_id]
        match frame:
            case HeadersFrame():
                answer.headers.append({str(name): str(value) for name, value in self._decoder.decode(frame.data)})
            case DataFrame():
                answer.data += frame.data
            case RstStreamFrame():
                answer.reset = frame.error_code
            case WindowUpdateFrame():
                self.granted[frame.stream_id] += frame.window_increment
            case GoAwayFrame():
                self.goaway = frame
        answer.ended |= "END_STREAM" in frame.flags
