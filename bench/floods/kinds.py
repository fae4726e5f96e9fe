"""The kinds of flood: what a connection sends first, and then over and over, in HTTP/2 frames."""

import struct
from collections.abc import Callable, Iterator
from itertools import count

from hpack import Encoder, NeverIndexedHeaderTuple
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
LIST, STREAM, CREATE = (f"/statecell.v1.InferenceService/{rpc}" for rpc in ("ListModels", "StreamSteps", "CreateSession"))
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
INITIAL_WINDOW, MAX_FRAME = 4, 5
OPEN_CALLS = 5000
NOWHERE = "calls of long paths that there are not"
NO_MODEL = b"\0\0\0\0\4\x0a\x02zz"
"""A CreateSessionRequest of a model that there is not, with gRPC's prefix."""
CANCEL = struct.pack(">I", 8)

Flood = Iterator[bytes]
"""Of one connection: the first piece once it is greeted, then whatever comes next."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def block(path: str) -> bytes:
    """A call's headers, of which the peer's table keeps none."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, "content-type": "application/grpc", "te": "trailers"}
    encoded: bytes = Encoder().encode([NeverIndexedHeaderTuple(*field) for field in fields.items()])
    return encoded


def calls(head: bytes, number: int, flags: int, first: int = 1) -> bytes:
    return b"".join(frame(HEADERS, flags, first + 2 * i, head) for i in range(number))


def repeated(piece: bytes, first: bytes = b"") -> Callable[[], Flood]:
    def flood() -> Flood:
        yield first
        while True:
            yield piece

    return flood


def numbered(call: Callable[[int], bytes], pieces: int) -> Callable[[], Flood]:
    """`call(stream)`: the frames of one call, of which there are more and more."""

    def flood() -> Flood:
        for first in count(1, 2 * pieces):
            yield b"".join(call(first + 2 * i) for i in range(pieces))

    return flood


def settings(identifier: int, *values: int) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", identifier, value) for value in values))


def huffman(number: int) -> bytes:
    """Headers whose one value is long, of Huffman's codes, and another one for each of 50 numbers."""
    value: bytes = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(b"a0e1" * 3800 + b"%06d" % (number % 50))
    length, rest = bytearray([0xFF]), len(value) - 127
    while rest >= 128:
        length.append(rest & 127 | 128)
        rest >>= 7
    length.append(rest)
    return b"\x83\x86\x84\x10\x01z" + bytes(length) + value  # POST, http, /, and the field z, never indexed


def _kinds() -> dict[str, Callable[[], Flood]]:
    listing, streaming, creating = block(LIST), block(STREAM), block(CREATE)
    nowhere, nobody = block("/" + "x" * 2600), block("/x")
    codes = [huffman(number) for number in range(50)]
    windows = b"".join(settings(INITIAL_WINDOW, 65_535 + (i & 1)) for i in range(500))
    one_stream = frame(HEADERS, END_HEADERS, 1, streaming)
    lone = frame(HEADERS, END_HEADERS | END_STREAM, 1, nobody)
    unfinished = frame(HEADERS, 0, 1, listing)

    return {
        "resets": numbered(lambda s: frame(HEADERS, END_HEADERS, s, listing) + frame(RESET, 0, s, CANCEL), 500),
        "continuations without end": repeated(frame(CONTINUATION, 0, 1, b"\x40\x01a\x01b" * 100) * 50, unfinished),
        "empty continuations": repeated(frame(CONTINUATION, 0, 1) * 5000, unfinished),
        "settings of many entries": repeated(settings(MAX_FRAME, *[16_384] * 64) * 400),
        "settings": repeated(settings(MAX_FRAME, 16_384) * 2000),
        "windows of 5,000 calls": repeated(windows, calls(streaming, OPEN_CALLS, END_HEADERS)),
        "pings": repeated(frame(PING, 0, 0, b"12345678") * 5000),
        "acknowledged pings": repeated(frame(PING, ACK, 0, b"12345678") * 5000),
        "acknowledged settings": repeated(frame(SETTINGS, ACK, 0) * 5000),
        "goaway": repeated(frame(GOAWAY, 0, 0, bytes(8)) * 5000),
        "window updates of a call that is over": repeated(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)) * 5000, lone),
        "priorities": repeated(frame(PRIORITY, 0, 1, b"\0\0\0\0\1") * 5000),
        "empty data": repeated(frame(DATA, 0, 1) * 5000, one_stream),
        "padded data": repeated(frame(DATA, PADDED, 1, b"\3\0\0\0") * 5000, one_stream),
        "data of one byte": repeated(frame(DATA, 0, 1, b"\0") * 5000, one_stream),
        "data of a call that is over": repeated(frame(DATA, 0, 1, b"abc") * 5000, frame(HEADERS, END_HEADERS, 1, nobody)),
        NOWHERE: numbered(lambda s: frame(HEADERS, END_HEADERS | END_STREAM, s, nowhere), 500),
        "headers of Huffman codes": numbered(
            lambda s: frame(HEADERS, END_HEADERS | END_STREAM, s, codes[s // 2 % len(codes)]), 50
        ),
        "calls that fail": numbered(
            lambda s: frame(HEADERS, END_HEADERS, s, creating) + frame(DATA, END_STREAM, s, NO_MODEL), 1000
        ),
    }


KINDS = _kinds()
UNREAD = f"{NOWHERE}, unread"
STRANGERS = "connections that speak no HTTP/2"
NAMES = ("none", *KINDS, UNREAD, STRANGERS)
"""All there are, with those of which sender.py knows more than the frames."""
