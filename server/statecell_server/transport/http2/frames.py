"""HTTP/2 frames (RFC 9113, sections 4, 6 and 7)."""

import enum
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_SIZE = 16_384
"""Bytes of a frame's payload that every peer takes, and the most of our own frames but DATA."""
LARGEST_DATA = 256 << 10
"""Bytes of a DATA frame's payload that we take: a large message costs few frames. Other frames of more than FRAME_SIZE
would say nothing that we want to hear."""
HEAD_SIZE = 9
DEFAULT_WINDOW = 65_535
LARGEST_WINDOW = (1 << 31) - 1

HEAD = struct.Struct(">IBI")  # length in 24 bits and type, flags, stream
MESSAGE_HEAD = struct.Struct(">IBIBI")  # the same of a DATA frame, and gRPC's prefix: compressed or not, length
PREFIX = struct.Struct(">BI")
_SETTING = struct.Struct(">HI")

# Types. Plain integers: they are compared once a frame.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20


class Code(enum.IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class Setting(enum.IntEnum):
    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


class ConnectionBroken(Exception):
    """The peer broke the protocol, or asks for more than anyone should: the connection ends with a GOAWAY that says why."""

    def __init__(self, code: Code, why: str) -> None:
        super().__init__(why)
        self.code = code


class StreamBroken(Exception):
    """The peer broke the protocol on one stream, which is reset; the others go on."""

    def __init__(self, code: Code, why: str) -> None:
        super().__init__(why)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def settings(values: dict[Setting, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values.items()))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Raises ConnectionBroken."""
    if len(payload) % _SETTING.size:
        raise ConnectionBroken(Code.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes, expected a multiple of 6")
    return [_SETTING.unpack_from(payload, at) for at in range(0, len(payload), _SETTING.size)]


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def reset(stream: int, code: Code) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last_stream: int, code: Code, why: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, last_stream.to_bytes(4, "big") + code.to_bytes(4, "big") + why.encode()[:1024])


def unpadded(flags: int, payload: bytes) -> bytes:
    """A DATA or HEADERS payload without its padding. Raises ConnectionBroken."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionBroken(Code.PROTOCOL_ERROR, "padding as long as its frame")
    return payload[1 : len(payload) - payload[0]]
