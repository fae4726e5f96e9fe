"""A limit that a call breaks ends that call and no other, with a code that is not retried; so it is with connections."""

import asyncio
import time
from collections.abc import Iterator

import grpc
import pytest
from hyperframe.frame import DataFrame, HeadersFrame
from statecell_server.transport.http2 import server as server_module
from statecell_server.transport.http2.turns import ALONE, ALONE_AFTER, SHARE, Turns
from statecell_server.transport.limits import Limits

from tests.server.transport.http2.echo import COUNT, SAY, TALK, Front, say
from tests.server.transport.http2.raw import Raw, heads

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
PROTOCOL_ERROR = 1


@pytest.fixture
def raw(front: Front) -> Iterator[Raw]:
    with Raw(front.address) as raw:
        yield raw


@pytest.mark.parametrize("size", [17_000, 60_000, 200_000])
def test_metadata_beyond_its_limit_ends_its_call_and_no_other(raw: Raw, size: int) -> None:
    before = raw.call(TALK, b"before", end=False)
    block = raw.block([*heads(SAY), ("cookie", "c" * size)])
    raw.stream += 2
    large = raw.stream
    pieces = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
    raw.send(HeadersFrame(large, pieces[0], flags=["END_HEADERS"] if len(pieces) == 1 else []))
    for number, piece in enumerate(pieces[1:], 2):
        raw.send(continuation(large, piece, end=number == len(pieces)))
    answer = raw.answer(large)
    assert answer.status == EXHAUSTED
    assert "--max-metadata" in answer.headers[-1]["grpc-message"]
    assert raw.ask(SAY, b"after", more={"cookie": "c" * 1000}).messages == [b"after"]
    raw.send(raw.data(end=True, stream=before))
    assert raw.answer(before).messages == [b"before"]


def continuation(stream: int, piece: bytes, *, end: bool) -> bytes:
    return (len(piece) << 8 | 9).to_bytes(4, "big") + bytes([4 if end else 0]) + stream.to_bytes(4, "big") + piece


def test_headers_that_are_continued_for_ever_end_their_connection(front: Front) -> None:
    with Raw(front.address) as raw:
        raw.send(HeadersFrame(1, b"\x00"))
        for _ in range(40):
            try:
                raw.send(continuation(1, b"x" * 16_000, end=False))
            except OSError:
                break
        assert raw.ending() == 0xB
    with grpc.insecure_channel(front.address) as channel:
        assert say(channel)(b"x") == b"x"


@pytest.mark.parametrize(
    ("said", "sent"), [("4", b"12345"), ("6", b"12345"), ("5, 5", b"12345"), ("-5", b"12345"), ("", b"12345")]
)
def test_another_length_than_was_said_ends_the_stream(raw: Raw, said: str, sent: bytes) -> None:
    raw.send(raw.headers(SAY, more={"content-length": said}), raw.data(sent, end=True))
    assert raw.answer(raw.stream).reset == PROTOCOL_ERROR
    assert raw.ask(SAY, b"x", more={"content-length": "6"}).messages == [b"x"]


@pytest.mark.parametrize("trailers", [[(":path", "/late")], [("a", "b\r\nc: d")], [("A", "b")], [("", "b")], [("a", " b")]])
def test_trailers_keep_the_rules_of_headers(raw: Raw, trailers: list[tuple[str, str]]) -> None:
    stream = raw.call(COUNT, b"one", end=False)
    raw.send(HeadersFrame(stream, raw.block(trailers), flags=["END_HEADERS", "END_STREAM"]))
    assert raw.answer(stream).reset == PROTOCOL_ERROR
    assert raw.ask(SAY, b"x").messages == [b"x"]


def test_frames_of_the_size_that_was_announced_are_taken(raw: Raw) -> None:
    raw.send((100_000 << 8 | 0xAA).to_bytes(4, "big") + bytes(5) + bytes(100_000))  # of a type that nobody knows
    assert raw.ask(SAY, b"x").messages == [b"x"]


def limited(**limits: float) -> Front:
    return Front(None, Limits(**limits))  # type: ignore[arg-type]


def test_one_connection_too_many_is_closed_and_the_others_go_on() -> None:
    front = limited(connections=3)
    try:
        held = [Raw(front.address) for _ in range(3)]
        for raw in held:
            assert raw.ask(SAY, b"x").messages == [b"x"]
        with Raw(front.address, greet=False) as late:
            assert not late.read()
        held.pop().socket.close()
        while front.connections > 2:
            time.sleep(0.01)
        with Raw(front.address) as next_:
            assert next_.ask(SAY, b"y").messages == [b"y"]
        for raw in held:
            assert raw.ask(SAY, b"z").messages == [b"z"]
            raw.socket.close()
    finally:
        front.close()


def test_idle_connections_go_and_those_with_a_call_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LOOK_SECONDS", 0.05)
    front = limited(idle_seconds=0.3)
    try:
        with Raw(front.address) as idle, Raw(front.address) as busy:
            stream = busy.call(TALK, b"x", end=False)
            assert idle.ask(SAY, b"x").messages == [b"x"]
            assert idle.ending() == 0
            busy.send(busy.data(end=True, stream=stream))
            assert busy.answer(stream).messages == [b"x"]
    finally:
        front.close()


def test_half_of_a_frame_or_of_headers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr("statecell_server.transport.http2.connection.GREETING_SECONDS", 0.3)
    front = limited()
    try:
        with Raw(front.address) as frame, Raw(front.address) as headers, Raw(front.address) as good:
            frame.send(DataFrame(1, b"x" * 100).serialize()[:20])
            headers.send(HeadersFrame(1, headers.block(heads(SAY))))
            assert frame.ending() is None
            assert headers.ending() is None
            assert good.ask(SAY, b"x").messages == [b"x"]
    finally:
        front.close()


def test_a_call_whose_message_does_not_come_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr("statecell_server.transport.http2.streams.MESSAGE_SECONDS", 0.3)
    front = limited()
    try:
        with Raw(front.address) as raw:
            streamed = raw.call(TALK, b"x", end=False)
            single = raw.call(SAY, end=False)
            assert raw.answer(single).status == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
            raw.send(raw.data(end=True, stream=streamed))
            assert raw.answer(streamed).messages == [b"x"]
    finally:
        front.close()


class Greedy:
    """Reads for a share, and has more to be read for so many turns."""

    def __init__(self, turns: Turns, left: int) -> None:
        self.turns, self.left = turns, left

    def read_on(self) -> None:
        time.sleep(SHARE)
        self.left -= 1
        if self.left:
            self.turns.wait(self)


async def test_what_many_send_leaves_every_turn_to_others() -> None:
    """Twenty who always have more: a turn of the loop stays short, and each of them has its share again and again."""
    turns = Turns()
    greedy = [Greedy(turns, 10) for _ in range(20)]
    for reader in greedy:
        turns.wait(reader)
    longest, count, last = 0.0, 0, time.perf_counter()
    while any(reader.left for reader in greedy):
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, last, count = max(longest, now - last), now, count + 1
    assert count > 20
    assert longest < 20 * SHARE + 1.0  # a busy machine may take its time, too


async def test_one_alone_has_a_longer_share_until_another_comes() -> None:
    turns = Turns()
    one, two = Greedy(turns, 1), Greedy(turns, 1)
    assert turns.share(one, 10.0) == SHARE
    assert turns.share(one, 10.0 + ALONE_AFTER / 2) == SHARE
    assert turns.share(one, 10.0 + 2 * ALONE_AFTER) == ALONE
    assert turns.share(two, 10.0 + 2 * ALONE_AFTER) == SHARE
    assert turns.share(one, 10.0 + 2 * ALONE_AFTER) == SHARE
