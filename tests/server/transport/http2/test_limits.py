"""A limit that a call breaks ends that call and no other, with a code that is not retried; so it is with connections."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
from hpack import Encoder
from hyperframe.frame import DataFrame, HeadersFrame, PingFrame, SettingsFrame
from statecell_server.transport.http2 import server as server_module
from statecell_server.transport.http2.call import Method
from statecell_server.transport.http2.connection import Connection
from statecell_server.transport.http2.shared import Shared
from statecell_server.transport.http2.streams import CANCELLED_A_TURN, TASK_SECONDS
from statecell_server.transport.http2.turns import ALL, ALONE, ALONE_AFTER, FRAMES, SHARE, Turns
from statecell_server.transport.limits import Limits

from tests.server.transport.http2.echo import COUNT, SAY, TALK, Front, say
from tests.server.transport.http2.raw import PREFACE, Raw, heads, message

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
PROTOCOL_ERROR, CALM = 1, 0xB


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


class Clock:
    """time.perf_counter, which goes on only where somebody works."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tick: float = 0.0) -> None:
        """`tick`: by which it goes on with each look at it."""
        self.now, self.tick = 1.0, tick
        monkeypatch.setattr("time.perf_counter", self)

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


class Greedy:
    """Reads for a share, and has more to be read for so many turns."""

    def __init__(self, turns: Turns, clock: Clock, left: int) -> None:
        self.turns, self.clock, self.left = turns, clock, left

    def read_on(self) -> None:
        self.clock.now += SHARE
        self.left -= 1
        if self.left:
            self.turns.wait(self)


async def test_what_many_send_leaves_every_turn_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty who always have more: a turn of the loop stays short, and each of them has its share again and again."""
    clock, turns = Clock(monkeypatch), Turns()
    greedy = [Greedy(turns, clock, 10) for _ in range(20)]
    for reader in greedy:
        turns.wait(reader)
    left, longest, spread = 200, 0, 0
    while left:
        await asyncio.sleep(0)
        now = sum(reader.left for reader in greedy)
        longest, left = max(longest, left - now), now
        spread = max(spread, max(r.left for r in greedy) - min(r.left for r in greedy))
    assert 1 <= longest <= ALL / SHARE + 1
    assert spread == 1


class Deaf(asyncio.Transport):
    """Takes what is written, and knows whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


async def test_who_has_sent_more_than_a_share_waits_for_a_turn_with_what_comes_next(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, shared = Clock(monkeypatch, tick=SHARE / 4), Shared({}, Limits())
    connection, transport = Connection(shared, set()), Deaf()
    connection.connection_made(transport)
    connection.data_received(PREFACE + SettingsFrame(0).serialize())
    assert transport.reading
    pings = PingFrame(0, b"12345678").serialize() * 100
    connection.data_received(pings)
    assert not transport.reading
    turns = 0
    while not transport.reading:
        before = connection.reads
        await asyncio.sleep(0)
        turns += 1
        assert connection.reads <= before + 1
    assert turns >= 3
    connection.data_received(PingFrame(0, b"12345678").serialize())  # few, but of one that has sent many
    assert not transport.reading
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert transport.reading
    clock.now += 1.0
    before = connection.reads
    connection.data_received(PingFrame(0, b"12345678").serialize())
    assert transport.reading
    assert connection.reads == before + 1
    connection.connection_lost(None)


async def test_what_calls_will_cost_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading their headers takes no time at all here; what is begun by them is what they cost."""

    async def served(message: bytes, _: object) -> bytes:
        return message

    Clock(monkeypatch)
    handlers = {SAY: Method(grpc.unary_unary_rpc_method_handler(served, bytes, bytes))}
    connection, transport = Connection(Shared(handlers, Limits()), set()), Deaf()
    connection.connection_made(transport)
    block = Encoder().encode(heads(SAY))
    whole = DataFrame(1, message(b"x"), flags=["END_STREAM"])

    def call(stream: int) -> bytes:
        whole.stream_id = stream
        return bytes(HeadersFrame(stream, block, flags=["END_HEADERS"]).serialize() + whole.serialize())

    connection.data_received(PREFACE + SettingsFrame(0).serialize() + b"".join(call(1 + 2 * n) for n in range(100)))
    assert 4 <= len(connection.calls) <= SHARE / TASK_SECONDS + 2 * FRAMES
    assert not transport.reading
    connection.connection_lost(None)
    await asyncio.sleep(0)


async def test_one_alone_has_a_longer_share_until_another_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, turns = Clock(monkeypatch), Turns()
    one, two = Greedy(turns, clock, 1), Greedy(turns, clock, 1)
    assert turns.share(one, 10.0) == SHARE
    assert turns.share(one, 10.0 + ALONE_AFTER / 2) == SHARE
    assert turns.share(one, 10.0 + 2 * ALONE_AFTER) == ALONE
    assert turns.share(two, 10.0 + 2 * ALONE_AFTER) == SHARE
    assert turns.share(one, 10.0 + 2 * ALONE_AFTER) == SHARE


def test_settings_without_end_end_their_connection(front: Front) -> None:
    with Raw(front.address) as many, Raw(front.address) as usual:
        many.send((65 * 6 << 8 | 4).to_bytes(4, "big") + bytes(5) + (b"\0\3\0\0\0\1" * 65))
        assert many.ending() == CALM
        usual.send(SettingsFrame(0, settings=dict.fromkeys(range(1, 7), 0) | {4: 65_535, 5: 16_384}))
        assert usual.ask(SAY, b"x").messages == [b"x"]


async def test_the_calls_of_a_client_that_is_gone_are_cancelled_a_few_a_turn() -> None:
    cancelled = 0

    async def held(requests: AsyncIterator[bytes], _: object) -> bytes:
        nonlocal cancelled
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return b""

    handlers = {COUNT: Method(grpc.stream_unary_rpc_method_handler(held, bytes, bytes))}
    connection, transport = Connection(Shared(handlers, Limits()), set()), Deaf()
    connection.connection_made(transport)
    block = Encoder().encode(heads(COUNT))
    connection.data_received(PREFACE + SettingsFrame(0).serialize())
    for number in range(500):
        connection.data_received(HeadersFrame(1 + 2 * number, block, flags=["END_HEADERS"]).serialize())
    while len(connection.calls) < 500:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    connection.connection_lost(None)
    assert not connection.calls
    most = before = 0
    while cancelled < 500:
        await asyncio.sleep(0)
        most, before = max(most, cancelled - before), cancelled
    assert 0 < most <= CANCELLED_A_TURN
