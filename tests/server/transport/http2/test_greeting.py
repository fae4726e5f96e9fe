"""How a connection begins, and how its bytes are cut into frames."""

import asyncio
import socket

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from statecell_server.transport.http2 import connection
from statecell_server.transport.http2.shared import Shared
from statecell_server.transport.limits import Limits

from tests.server.transport.http2.conftest import settle
from tests.server.transport.http2.echo import SAY, TALK, Front
from tests.server.transport.http2.raw import PREFACE, Raw, heads, message


def test_the_server_says_its_settings_first_and_acknowledges_the_clients(raw: Raw) -> None:
    raw.ping()
    settings = [f for f in raw.seen if isinstance(f, SettingsFrame)]
    assert isinstance(raw.seen[0], SettingsFrame)
    assert settings[0].settings[SettingsFrame.INITIAL_WINDOW_SIZE] == 1 << 20
    assert settings[0].settings[SettingsFrame.MAX_FRAME_SIZE] == 256 << 10
    assert "ACK" in settings[1].flags


def test_a_client_that_says_nothing_is_dropped(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "GREETING_SECONDS", 0.05)
    with Raw(front.address, greet=False) as silent, Raw(front.address, greet=False) as slow:
        slow.socket.sendall(PREFACE[:10])
        assert silent.ending() is None
        assert slow.ending() is None


def test_a_client_that_has_greeted_may_be_silent(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "GREETING_SECONDS", 0.05)
    with Raw(front.address, greet=False) as silent, Raw(front.address) as quiet:
        quiet.ping()
        silent.ending()
        quiet.ping()


@pytest.mark.parametrize(
    "words", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0" * 24]
)
def test_a_client_that_speaks_something_else_is_told_so(front: Front, words: bytes) -> None:
    with Raw(front.address, greet=False) as raw:
        raw.socket.sendall(words)
        assert raw.ending() == 0x1


def test_frames_may_be_cut_anywhere(front: Front) -> None:
    with Raw(front.address, greet=False) as raw:
        frames = [
            SettingsFrame(0),
            raw.headers(SAY),
            raw.data(message(b"first")),
            raw.data(end=True),
            raw.headers(TALK),
            raw.data(message(b"second") + message(b"third"), end=True),
        ]
        whole = PREFACE + b"".join(f.serialize() for f in frames)
        raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(whole)):
            raw.socket.sendall(whole[at : at + 1])
        assert raw.answer(1).messages == [b"first"]
        assert raw.answer(3).messages == [b"second", b"third"]


def test_every_place_to_cut_two_packets_is_right(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fed to the connection, so that no packet is joined with the next one on its way."""
    monkeypatch.setattr("statecell_server.transport.http2.turns.SHARE", 3600.0)  # what is there is read in one turn

    class Sink(asyncio.Transport):
        def __init__(self) -> None:
            super().__init__()
            self.sent = b""

        def write(self, data: bytes | bytearray | memoryview) -> None:
            self.sent += data

        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
            pass

        def is_closing(self) -> bool:
            return False

    with Raw(front.address) as raw:
        frames: list[Frame] = [
            SettingsFrame(0),
            raw.headers(SAY),
            raw.data(message(b"body"), end=True),
            PingFrame(0, b"12345678"),
        ]
    whole = PREFACE + b"".join(f.serialize() for f in frames)

    async def cut(at: int) -> bytes:
        sink = Sink()
        found = connection.Connection(Shared(front.server._handlers, Limits(message=1 << 20)), set())
        found.connection_made(sink)
        for part in (whole[:at], whole[at:]):
            found.data_received(part)
            for _ in range(4):
                await asyncio.sleep(0)
        found.connection_lost(None)
        return sink.sent

    def sorted_frames(sent: bytes) -> list[bytes]:
        """A ping's answer may come before or after the call's."""
        frames = []
        while sent:
            size = 9 + int.from_bytes(sent[:3], "big")
            frames.append(sent[:size])
            sent = sent[size:]
        return sorted(frames)

    expected = sorted_frames(front.run(cut(0)))
    assert any(b"body" in frame for frame in expected)
    for at in range(1, len(whole)):
        assert sorted_frames(front.run(cut(at))) == expected, at


def test_many_calls_may_come_in_one_packet(raw: Raw) -> None:
    frames: list[Frame] = []
    for i in range(500):
        frames += [raw.headers(SAY), raw.data(message(str(i).encode()), end=True)]
    raw.send(*frames)
    for i in range(500):
        assert raw.answer(2 * i + 1).messages == [str(i).encode()]


def test_headers_may_be_continued(raw: Raw) -> None:
    block = raw.block(heads(SAY, {"x-long": "v" * 300}))
    parts = [block[i : i + 7] for i in range(0, len(block), 7)]
    raw.send(
        HeadersFrame(1, parts[0]),
        *(ContinuationFrame(1, part) for part in parts[1:]),
        ContinuationFrame(1, b"", flags=["END_HEADERS"]),
        DataFrame(1, message(b"x"), flags=["END_STREAM"]),
    )
    assert raw.answer(1).messages == [b"x"]


@pytest.mark.parametrize(
    "between", [PingFrame(0, b"12345678"), DataFrame(1, b""), HeadersFrame(3, b""), ContinuationFrame(3, b"")]
)
def test_nothing_may_come_between_headers_and_their_continuation(raw: Raw, between: Frame) -> None:
    raw.send(HeadersFrame(1, raw.block(heads(SAY))), between)
    assert raw.ending() == 0x1


def test_padding_and_priorities_are_no_part_of_what_is_said(raw: Raw) -> None:
    block = raw.block(heads(SAY))
    raw.send(
        PriorityFrame(1, depends_on=0, stream_weight=5),
        HeadersFrame(1, block, pad_length=20, depends_on=0, stream_weight=3, flags=["END_HEADERS", "PADDED", "PRIORITY"]),
        DataFrame(1, message(b"padded")[:7], pad_length=255, flags=["PADDED"]),
        DataFrame(1, message(b"padded")[7:], pad_length=0, flags=["PADDED", "END_STREAM"]),
    )
    assert raw.answer(1).messages == [b"padded"]


def test_padding_as_long_as_its_frame_is_refused(raw: Raw) -> None:
    raw.send(raw.headers(SAY), b"\0\0\x03\0\x08\0\0\0\x01\x03ab")
    assert raw.ending() == 0x1


def test_frames_of_unknown_types_and_settings_are_ignored(raw: Raw) -> None:
    raw.send(b"\0\0\x04\xee\xff\0\0\0\x07abcd", SettingsFrame(0, settings={0x99: 7}))
    assert raw.ask(SAY, b"x").messages == [b"x"]


def head(size: int, kind: int, flags: int, stream: int) -> bytes:
    return size.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")


def test_a_connection_that_is_over_is_told_nothing_more(front: Front, raw: Raw) -> None:
    raw.send(raw.data(b"x", stream=5))
    assert raw.ending() == 0x1
    (over,) = front.server._connections
    front.do(over.leave)
    front.do(lambda: None)
    assert front.errors == []


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (head((256 << 10) + 1, 0, 0, 1), 0x6),  # DATA that is too large
        (head((256 << 10) + 1, 1, 4, 1), 0x6),  # HEADERS that are
        (head(0, 0, 0, 0), 0x1),  # DATA on the connection
        (head(0, 0, 0, 5), 0x1),  # DATA on a stream that was never opened
        (head(0, 1, 4, 0), 0x1),  # HEADERS on the connection
        (head(0, 1, 4, 2), 0x1),  # HEADERS on one of the server's streams
        (head(4, 3, 0, 0) + b"\0" * 4, 0x1),  # RST_STREAM on the connection
        (head(4, 3, 0, 9) + b"\0" * 4, 0x1),  # RST_STREAM on a stream that was never opened
        (head(3, 3, 0, 1) + b"\0" * 3, 0x6),
        (head(5, 4, 0, 0) + b"\0" * 5, 0x6),  # SETTINGS
        (head(6, 4, 1, 0) + b"\0" * 6, 0x6),  # an acknowledgement with settings
        (head(0, 4, 0, 1), 0x1),
        (head(6, 4, 0, 0) + b"\0\2\0\0\0\2", 0x1),  # ENABLE_PUSH
        (head(6, 4, 0, 0) + b"\0\4\x80\0\0\0", 0x3),  # INITIAL_WINDOW_SIZE
        (head(6, 4, 0, 0) + b"\0\5\0\0\0\1", 0x1),  # MAX_FRAME_SIZE
        (head(4, 5, 4, 1) + b"\0\0\0\2", 0x1),  # PUSH_PROMISE
        (head(7, 6, 0, 0) + b"\0" * 7, 0x6),  # PING
        (head(8, 6, 0, 1) + b"\0" * 8, 0x1),
        (head(8, 7, 0, 1) + b"\0" * 8, 0x1),  # GOAWAY
        (head(3, 8, 0, 0) + b"\0" * 3, 0x6),  # WINDOW_UPDATE
        (head(4, 8, 0, 0) + b"\0" * 4, 0x1),
        (head(4, 8, 0, 9) + b"\0\0\0\1", 0x1),
        (head(0, 9, 4, 1), 0x1),  # CONTINUATION of nothing
        (head(1, 1, 4, 3) + b"\xff", 0x9),  # headers that are no HPACK
    ],
)
def test_a_broken_protocol_ends_the_connection_and_says_why(raw: Raw, frame: bytes, code: int) -> None:
    raw.send(raw.headers(TALK))
    raw.send(frame)
    assert raw.ending() == code
    assert raw.goaway is not None
    assert raw.goaway.additional_data


def test_windows_that_overflow_end_what_they_belong_to(front: Front) -> None:
    with Raw(front.address) as raw:
        stream = raw.call(TALK, end=False)
        raw.send(WindowUpdateFrame(stream, (1 << 31) - 1))
        assert raw.answer(stream).reset == 0x3
        assert raw.ask(SAY, b"x").messages == [b"x"]
        raw.send(WindowUpdateFrame(0, (1 << 31) - 1))
        assert raw.ending() == 0x3
    with Raw(front.address, window=65_535) as raw:
        stream = raw.call(TALK, end=False)
        raw.send(WindowUpdateFrame(stream, (1 << 31) - 1 - 65_535), SettingsFrame(0, settings={4: 65_536}))
        assert raw.ending() == 0x3


def test_a_window_that_a_call_has_used_up_or_taken_with_it_overflows_nothing(front: Front) -> None:
    with Raw(front.address, window=65_535) as raw:
        over = raw.call(TALK, end=False)
        raw.send(WindowUpdateFrame(over, (1 << 31) - 1 - 65_535), raw.data(b"", end=True, stream=over))
        assert raw.answer(over).status == 0
        raw.send(SettingsFrame(0, settings={4: 1 << 20}), SettingsFrame(0, settings={4: (1 << 31) - 1}))
        assert raw.ask(SAY, b"large:300000").messages == [b"a" * 300_000]
        used = raw.call(SAY, b"large:300000")
        raw.answer(used)
        raw.send(SettingsFrame(0, settings={4: 0}), SettingsFrame(0, settings={4: (1 << 31) - 1}))
        assert raw.ask(SAY, b"x").messages == [b"x"]


def test_a_connection_that_is_lost_takes_its_calls_with_it(front: Front) -> None:
    with Raw(front.address) as raw:
        for _ in range(5):
            raw.call(SAY, b"wait")
        raw.call(TALK, b"x", end=False)
        settle(lambda: front.echo.began == 5 and len(front.echo.exchanges) == 1)
    settle(lambda: front.echo.cancelled == 5 and front.connections == 0)
    assert front.echo.exchanges[0].cancelled
