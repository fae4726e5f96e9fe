"""Messages: the same whatever DATA frames they come in."""

import gzip
import struct
import zlib

import grpc
import pytest
from hyperframe.frame import DataFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from statecell_server.transport.http2.messages import Aborted, Messages

from tests.server.transport.http2.echo import COUNT, REPEAT, SAY, TALK, Front, say, talk
from tests.server.transport.http2.raw import PATIENCE, Raw, message

LIMIT = 4 << 20


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=40) | st.just(b"large" * 5000), max_size=8), st.lists(st.integers(1, 60), max_size=200))
def test_messages_are_the_same_however_they_are_cut(bodies: list[bytes], cuts: list[int]) -> None:
    reader = Messages(1 << 20, "identity")
    found: list[bytes] = []
    data = b"".join(map(message, bodies))
    for cut in [*cuts, len(data)]:
        found += reader.feed(data[:cut])
        data = data[cut:]
        if not data:
            break
    assert found == bodies
    assert reader.size == 0


def test_all_messages_of_one_frame_are_answered_in_order(raw: Raw) -> None:
    bodies = [b"", b"a", b"", b"bc" * 100, b"", *(str(i).encode() for i in range(900))]
    assert raw.ask(TALK, *bodies).messages == bodies


def test_a_message_may_come_byte_by_byte(raw: Raw) -> None:
    stream = raw.call(TALK, end=False)
    data = message(b"slowly") + message(b"") + message(b"but surely")
    raw.send(*(raw.data(data[at : at + 1]) for at in range(len(data))), raw.data(end=True))
    assert raw.answer(stream).messages == [b"slowly", b"", b"but surely"]


@pytest.mark.parametrize("piece", [1 << 18, 60_000, 1001])
def test_a_large_message_may_come_in_one_frame(raw: Raw, piece: int) -> None:
    """However its bytes arrive."""
    body = bytes(range(256)) * 1000
    raw.send(raw.headers(TALK))
    data = raw.data(message(body)).serialize() + raw.data(message(b"next") + message(body)[:5000]).serialize()
    for at in range(0, len(data), piece):
        raw.send(data[at : at + piece])
    raw.send(raw.data(message(body)[5000:], end=True))
    assert raw.answer(raw.stream).messages == [body, b"next", body]


def test_a_large_frame_may_be_padded(raw: Raw) -> None:
    body = bytes(range(256)) * 1000
    raw.send(raw.headers(SAY), DataFrame(raw.stream, message(body), pad_length=200, flags=["END_STREAM", "PADDED"]))
    assert raw.answer(raw.stream).messages == [body]


def test_each_kind_of_call_works(raw: Raw) -> None:
    assert raw.ask(SAY, b"").messages == [b""]
    assert raw.ask(COUNT, b"a", b"", b"abc").messages == [b"[1, 0, 3]"]
    assert raw.ask(COUNT).messages == [b"[]"]
    assert raw.ask(REPEAT, b"5").messages == [b"0", b"1", b"2", b"3", b"4"]
    assert raw.ask(REPEAT, b"0").messages == []
    assert raw.ask(TALK).messages == []


@pytest.mark.parametrize("bodies", [(), (b"one", b"two")])
def test_a_unary_call_has_exactly_one_message(raw: Raw, bodies: tuple[bytes, ...]) -> None:
    answer = raw.ask(SAY, *bodies)
    assert (answer.status, answer.messages) == (grpc.StatusCode.INTERNAL.value[0], [])


def test_a_message_that_breaks_off_is_no_message(raw: Raw) -> None:
    raw.send(raw.headers(SAY), raw.data(message(b"whole")[:-1], end=True))
    assert raw.answer(1).status == grpc.StatusCode.INTERNAL.value[0]
    raw.send(raw.headers(TALK), raw.data(message(b"whole") + message(b"part")[:-1], end=True))
    assert raw.answer(3).messages == [b"whole"]
    assert raw.answer(3).status == grpc.StatusCode.INTERNAL.value[0]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_client_may_compress(front: Front, compression: grpc.Compression) -> None:
    body = b"compressible " * 10_000
    with grpc.insecure_channel(front.address, compression=compression) as channel:
        assert say(channel)(body, timeout=PATIENCE) == body
        answers = talk(channel)(iter([body, b"", b"x", body]), timeout=PATIENCE)
        assert list(answers) == [body, b"", b"x", body]


def compressed(body: bytes) -> bytes:
    return struct.pack(">BI", 1, len(body)) + body


@pytest.mark.parametrize(
    ("encoding", "body", "code"),
    [
        ("gzip", gzip.compress(b"right"), 0),
        ("deflate", zlib.compress(b"right"), 0),
        ("gzip", gzip.compress(b"right")[:-3], 13),
        ("gzip", b"not gzip", 13),
        ("gzip", zlib.compress(b"right"), 13),
        ("gzip", b"", 13),
        ("identity", gzip.compress(b"right"), 13),
        ("snappy", b"whatever", 12),
        ("gzip", gzip.compress(bytes(LIMIT)), 0),
        ("gzip", gzip.compress(bytes(LIMIT + 1)), 8),
        ("deflate", zlib.compress(bytes(50 * LIMIT)), 8),
    ],
)
def test_compressed_messages_are_read_or_refused(raw: Raw, encoding: str, body: bytes, code: int) -> None:
    other = raw.call(TALK, end=False)
    raw.send(raw.headers(SAY, more={"grpc-encoding": encoding}))
    data = compressed(body)
    raw.send(*(raw.data(data[at : at + 16_384]) for at in range(0, len(data), 16_384)), raw.data(end=True))
    answer = raw.answer(raw.stream)
    assert answer.status == code
    if code == 0 and len(body) < 100:
        assert answer.messages == [b"right"]
    if code == 12:
        assert "gzip" in answer.headers[0]["grpc-accept-encoding"]
    raw.send(raw.data(message(b"x"), stream=other, end=True))
    assert raw.answer(other).messages == [b"x"]


def test_messages_may_be_compressed_or_not_on_one_call(raw: Raw) -> None:
    data = message(b"plain") + message(b"squeezed", compressed=True) + message(b"plain again")
    raw.send(raw.headers(TALK, more={"grpc-encoding": "gzip"}), raw.data(data, end=True))
    assert raw.answer(1).messages == [b"plain", b"squeezed", b"plain again"]


def test_compressed_messages_stay_so_while_they_wait() -> None:
    """A megabyte of them may be a gigabyte of zeros."""
    reader = Messages(LIMIT, "gzip")
    found = reader.feed(message(bytes(LIMIT), compressed=True) * 50)
    assert sum(map(len, found)) < 1 << 20
    assert reader.plain(found[0]) == bytes(LIMIT)


@pytest.mark.parametrize("size", [LIMIT + 1, (1 << 32) - 1])
def test_a_message_beyond_the_limit_is_refused_by_its_prefix(raw: Raw, size: int) -> None:
    for stream, path in ((1, SAY), (3, TALK)):
        raw.send(raw.headers(path), raw.data(struct.pack(">BI", 0, size)))
        answer = raw.answer(stream)
        assert answer.status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert "--max-message" in answer.headers[0]["grpc-message"]
    assert raw.ask(SAY, b"x").messages == [b"x"]


def test_a_message_of_exactly_the_limit_is_taken() -> None:
    reader = Messages(10, "identity")
    assert list(reader.feed(message(b"x" * 10))) == [b"x" * 10]
    with pytest.raises(Aborted, match="11 bytes, the most is 10"):
        reader.feed(message(b"x" * 11))


def test_incomplete_messages_of_many_calls_do_not_add_up(raw: Raw) -> None:
    """Twice --max-message for a connection; the calls that go beyond it end, and the others go on."""
    body = message(bytes(LIMIT))[: 1 << 20]
    for _ in range(12):
        raw.send(raw.headers(SAY))
        raw.send(*(raw.data(body[at : at + 16_384]) for at in range(0, len(body), 16_384)))
    raw.ping()
    over = [s for s in range(1, 25, 2) if raw.answers[s].over]
    assert over
    assert {raw.answers[s].status for s in over} == {grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]}
    assert raw.ask(SAY, b"x").messages == [b"x"]
