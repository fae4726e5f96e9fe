"""Header blocks: what a call asks for, read from HPACK (RFC 7541), and how it is answered."""

import base64
import re
import urllib.parse
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple
from hpack.exceptions import OversizedHeaderListError
from hpack.table import HeaderTable

from statecell_server.transport.http2.frames import Code, ConnectionBroken, StreamBroken
from statecell_server.transport.http2.memory import Held

LARGEST_BLOCK = 256 << 10
"""Bytes of a call's headers, compressed or not, beyond which they are not read, and the connection ends. What is less and more
than a call may have ends the call alone."""
CACHED = 512
CACHED_SIZE = 1024
"""Blocks that a connection remembers: a client sends the same one with each call, or one a session; and their bytes at most."""
TRAILERS_SIZE = 8000
"""Bytes of a call's trailers at most: clients of gRPC take 8 KiB."""

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_FORBIDDEN = {"connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"}
_PSEUDO = {":method", ":scheme", ":path", ":authority"}
_NAME = re.compile(r"[!-9;-@\[-~]+")
"""A field's name (RFC 9113, section 8.2.1): what can be printed in ASCII, but no capital and no colon."""
_ENDS_A_LINE = re.compile(r"[\0\r\n]")
"""What no value has: whoever speaks HTTP/1.1 behind us would take what follows for a field of its own."""
_UNIMPLEMENTED = "12"
_WEB = (
    "this server does not speak gRPC-Web: put a proxy in front that translates it (Envoy's filter grpc_web), "
    "or use REST on the port of --http-port"
)
_PLAIN = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}"
"""What grpc-message has unchanged, beside letters and digits; all but % of what can be printed in ASCII."""

Metadata = Sequence[tuple[str, str | bytes]]


class Request(NamedTuple):
    """What the headers of a call say."""

    method: str
    path: str
    content_type: str
    timeout: float | None  # seconds
    encoding: str
    size: int  # bytes of all of them, as RFC 9113, section 10.5.1, counts them
    length: int | None  # bytes of all DATA that will come, where it is said
    request_id: str = ""
    traceparent: str = ""
    authorization: str = ""


class _Table(HeaderTable):
    """Counts what is added."""

    added = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.added += 1
        super().add(name, value)


class HeaderReader:
    """Reads the blocks of one connection, in the order in which they come."""

    def __init__(self, held: Held) -> None:
        """`held`: counts what is remembered."""
        self._held = held
        self._decoder = Decoder(max_header_list_size=LARGEST_BLOCK)
        self._decoder.header_table = self._table = _Table()
        self._known: dict[bytes, Request] = {}
        self._size = 0  # bytes of what is known

    def read(self, block: bytes) -> Request:
        """Raises ConnectionBroken, StreamBroken."""
        known = self._known.get(block)
        if known is not None:
            return known
        added = self._table.added
        headers = self._decoded(block)
        # While the table stays as it is, equal blocks mean equal headers. Those that resize it say so first.
        lasting = added == self._table.added and not (block and block[0] & 0xE0 == 0x20)
        if not lasting:
            self._forget()
        request = _request((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)
        if lasting and len(self._known) < CACHED and len(block) <= CACHED_SIZE:
            size = len(block) + request.size
            self._known[block] = request
            self._size += size
            if not self._held.add(size):
                self._forget()
        return request

    def _forget(self) -> None:
        self._known.clear()
        self._held.add(-self._size)
        self._size = 0

    def skip(self, block: bytes) -> StreamBroken | None:
        """A client's trailers: nobody asks for them, but the table must know them. The rule that they break, if they do.

        Raises ConnectionBroken.
        """
        self._forget()
        for name, value in self._decoded(block):
            if name.startswith(b":"):
                return StreamBroken(Code.PROTOCOL_ERROR, f"trailer {name!r} belongs in front of a call")
            try:
                _check(name.decode("latin-1"), value.decode("latin-1"))
            except StreamBroken as error:
                return error
        return None

    def _decoded(self, block: bytes) -> list[tuple[bytes, bytes]]:
        try:
            return list(self._decoder.decode(block, raw=True))
        except OversizedHeaderListError as error:
            raise ConnectionBroken(Code.ENHANCE_YOUR_CALM, f"headers of more than {LARGEST_BLOCK} bytes") from error
        except HPACKError as error:
            raise ConnectionBroken(Code.COMPRESSION_ERROR, str(error)) from error


def _check(name: str, value: str) -> None:
    """RFC 9113, section 8.2.1. Raises StreamBroken."""
    if _NAME.fullmatch(name.removeprefix(":")) is None:
        raise StreamBroken(Code.PROTOCOL_ERROR, f"header {name[:64]!r} is no name of HTTP/2")
    if _ENDS_A_LINE.search(value) is not None or value != value.strip(" \t"):
        what = "NUL, CR or LF in its value, or a space around it"
        raise StreamBroken(Code.PROTOCOL_ERROR, f"header {name[:64]!r} has {what}, which no header may")


def _request(headers: Iterable[tuple[str, str]]) -> Request:
    found: dict[str, str] = {}
    regular, total = False, 0
    for name, value in headers:
        _check(name, value)
        total += len(name) + len(value) + 32
        if name.startswith(":"):
            if regular or name not in _PSEUDO or name in found:
                raise StreamBroken(Code.PROTOCOL_ERROR, f"header {name!r} does not belong there")
        else:
            regular = True
            if name in _FORBIDDEN or (name == "te" and value != "trailers"):
                raise StreamBroken(Code.PROTOCOL_ERROR, f"header {name!r} is not one of HTTP/2")
        found.setdefault(name, value)
    missing = {":method", ":scheme", ":path"} - found.keys()
    if missing or not found[":path"]:
        raise StreamBroken(Code.PROTOCOL_ERROR, f"header {min(missing, default=':path')} is missing")
    return Request(
        found[":method"],
        found[":path"],
        found.get("content-type", ""),
        _timeout(found["grpc-timeout"]) if "grpc-timeout" in found else None,
        found.get("grpc-encoding", "identity"),
        total,
        _length(found["content-length"]) if "content-length" in found else None,
        found.get("x-request-id", ""),
        found.get("traceparent", ""),
        found.get("authorization", ""),
    )


def _length(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise StreamBroken(Code.PROTOCOL_ERROR, f"content-length is {text[:40]!r}, expected a number")
    return int(text)


def _timeout(text: str) -> float:
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not number.isdecimal() or len(number) > 8:
        raise StreamBroken(Code.PROTOCOL_ERROR, f"grpc-timeout is {text!r}, expected up to 8 digits and one of HMSmun")
    return int(number) * _UNITS[unit]


def _block(headers: Iterable[tuple[str, str]]) -> bytes:
    """Without the dynamic table, so that a block means the same whatever was sent before it."""
    block: bytes = Encoder().encode([NeverIndexedHeaderTuple(*header) for header in headers], huffman=False)
    return block


_ALONE = (
    (":status", "200"),
    ("content-type", "application/grpc"),
    ("grpc-accept-encoding", "identity,deflate,gzip"),
)
RESPONSE = _block(_ALONE)
"""Before the first message."""
OK = _block([("grpc-status", "0")])
"""After the last one."""


def not_grpc(status: int, content_type: str = "") -> bytes:
    """The answer to a request that is not gRPC. What speaks gRPC-Web is told so where its libraries look for it."""
    if not content_type.startswith("application/grpc-web"):
        return _block([(":status", str(status))])
    return _block([(":status", str(status)), ("grpc-status", _UNIMPLEMENTED), ("grpc-message", _WEB)])


def trailers(code: int, message: str, metadata: Metadata = (), *, alone: bool) -> bytes:
    """How a call ends. alone: without any message before it, and so with the response's headers."""
    headers = [*_ALONE] if alone else []
    if 3 * len(message) + sum(4 * len(value) // 3 + len(key) for key, value in metadata) > TRAILERS_SIZE:
        message, metadata = message[: TRAILERS_SIZE // 20], ()  # what names what came may be as long as that was
    headers += [("grpc-status", str(code)), ("grpc-message", urllib.parse.quote(message, safe=_PLAIN, errors="replace"))]
    return _block([*headers, *(_text(key, value) for key, value in metadata)])


def _text(key: str, value: Any) -> tuple[str, str]:
    return key, base64.b64encode(value).decode().rstrip("=") if key.endswith("-bin") else value
