"""Header blocks: read right whatever came before them, and answered so that clients can read them."""

import base64

import grpc
import pytest
from hpack import Encoder, HeaderTuple, NeverIndexedHeaderTuple
from hyperframe.frame import HeadersFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from statecell_server.transport.http2.frames import StreamBroken
from statecell_server.transport.http2.headers import CACHED, TRAILERS_SIZE, HeaderReader, Request, trailers
from statecell_server.transport.http2.memory import Held, Memory

from tests.server.transport.http2.echo import SAY, TALK, Front, say
from tests.server.transport.http2.raw import PATIENCE, Raw, heads, message

paths = st.sampled_from([SAY, TALK, "/a/B", "/" + "long" * 400])
names = st.text("abcdefghij-", min_size=1, max_size=8).filter(lambda name: name != "te")
values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40).map(str.strip) | st.sampled_from(
    ["x" * 2000, "y" * 3900]
)
requests = st.tuples(
    paths, st.sampled_from([None, "1S", "250m"]), st.dictionaries(names, values, max_size=3), st.booleans(), st.booleans()
)
sizes = st.sampled_from([0, 1, 60, 200, 1000, 4096])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(requests, st.integers(1, 3), st.none() | sizes), max_size=40))
def test_blocks_are_read_as_they_were_meant_however_the_table_changes(
    said: list[tuple[tuple[str, str | None, dict[str, str], bool, bool], int, int | None]],
) -> None:
    """What is remembered of equal blocks stays right when the table grows, evicts and is resized."""
    encoder, reader = Encoder(), HeaderReader(Held(Memory(1 << 20)))
    for (path, timeout, others, sensitive, huffman), times, size in said:
        if size is not None:
            encoder.header_table_size = size
        more = others | ({"grpc-timeout": timeout} if timeout else {})
        kind = NeverIndexedHeaderTuple if sensitive else HeaderTuple
        for _ in range(times):
            request = reader.read(encoder.encode([kind(*header) for header in heads(path, more)], huffman=huffman))
            seconds = {"1S": 1.0, "250m": 0.25, None: None}[timeout]
            nbytes = sum(len(name) + len(value) + 32 for name, value in heads(path, more))
            assert request == Request("POST", path, "application/grpc", seconds, "identity", nbytes, None)


def test_more_different_blocks_than_are_remembered_are_read_too() -> None:
    encoder, reader = Encoder(), HeaderReader(Held(Memory(1 << 20)))
    for _ in range(2):
        for i in range(2 * CACHED):
            block = encoder.encode([NeverIndexedHeaderTuple(*h) for h in heads(f"/x/{i}")])
            assert reader.read(block).path == f"/x/{i}"


def bad(*headers: tuple[str, str], without: str = "") -> list[tuple[str, str]]:
    return [header for header in heads(SAY) if header[0] != without] + list(headers)


@pytest.mark.parametrize(
    "headers",
    [
        bad(without=":method"),
        bad(without=":path"),
        bad(without=":scheme"),
        bad((":method", "POST")),
        bad((":authority", "late")),
        bad((":status", "200")),
        bad(("connection", "close")),
        bad(("transfer-encoding", "chunked")),
        bad(("Upper", "case")),
        bad(("te", "gzip")),
        bad(("", "no name")),
        bad(("a name", "x")),
        bad(("a:b", "x")),
        bad(("n\u00e4me", "x")),
        bad(("x", "a\0b")),
        bad(("x", "a\rb")),
        bad(("x", "a\nb: c")),
        bad(("grpc-timeout", "soon")),
        bad(("grpc-timeout", "123456789S")),
        bad(("grpc-timeout", "1x")),
        bad(("grpc-timeout", "")),
        bad(("grpc-timeout", "-1S")),
        [(":method", "POST"), (":scheme", "http"), (":path", "")],
    ],
)
def test_malformed_headers_end_their_stream_and_nothing_else(raw: Raw, headers: list[tuple[str, str]]) -> None:
    other = raw.call(TALK, b"before", end=False)
    raw.stream += 2
    raw.send(HeadersFrame(raw.stream, raw.block(headers), flags=["END_HEADERS"]), raw.data(message(b"lost"), end=True))
    assert raw.answer(raw.stream).reset == 0x1
    raw.send(raw.data(message(b"after"), stream=other, end=True))
    assert raw.answer(other).messages == [b"before", b"after"]


@pytest.mark.parametrize("timeout", ["99999999H", "60M", "00000060S", "60000m", "60000000u", "99999999n"])
def test_every_unit_of_time_is_understood(raw: Raw, timeout: str) -> None:
    assert raw.ask(SAY, b"x", more={"grpc-timeout": timeout}).status in (0, 4)


@pytest.mark.parametrize("size", [10_000, 2_000_000])
def test_headers_that_are_too_large_end_the_connection(raw: Raw, size: int) -> None:
    """Ten thousand bytes in few: each of four times the same."""
    block = raw.block([*heads(SAY), ("x", "y" * 3000)])
    raw.send(HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"]))
    assert raw.answer(1).over
    raw.send(HeadersFrame(3, block[-1:] * (size // 3000), flags=["END_HEADERS", "END_STREAM"]))
    raw.send(HeadersFrame(5, b"\xbe" * (size // 3000), flags=["END_HEADERS", "END_STREAM"]))
    assert raw.ending() in (0xB, 0x9)


def test_what_is_no_call_is_refused_and_the_connection_goes_on(raw: Raw) -> None:
    assert raw.ask(SAY, b"x", more={":method": "GET"}).headers == [{":status": "405"}]
    assert raw.ask(SAY, b"x", more={"content-type": "application/json"}).headers == [{":status": "415"}]
    unknown = raw.ask("/test.Echo/Nothing", b"x")
    assert unknown.status == grpc.StatusCode.UNIMPLEMENTED.value[0]
    assert "/test.Echo/Nothing" in unknown.headers[0]["grpc-message"]
    assert raw.ask(SAY, b"x", more={"content-type": "application/grpc+proto"}).messages == [b"x"]


@pytest.mark.parametrize("kind", ["-web", "-web+proto", "-web-text", "-web-text+proto"])
def test_grpc_web_is_refused_as_such_where_its_clients_look_for_it(raw: Raw, kind: str) -> None:
    (headers,) = raw.ask(SAY, b"x", more={"content-type": f"application/grpc{kind}"}).headers
    assert (headers[":status"], headers["grpc-status"]) == ("415", "12")
    assert "this server does not speak gRPC-Web: put a proxy in front" in headers["grpc-message"]
    assert raw.ask(SAY, b"x", more={"content-type": "application/grpc;charset=utf-8"}).messages == [b"x"]
    assert raw.ask(SAY, b"x", more={"content-type": "application/grpcx"}).headers == [{":status": "415"}]


def test_ten_thousands_of_refused_calls_are_no_reason_to_part(raw: Raw) -> None:
    """Their messages arrive when they have been answered, as those of a client older or newer than the server do."""
    for _ in range(120):
        for _ in range(100):
            last = raw.call("/test.Echo/Nothing", b"x")
        assert raw.answer(last).status == 12
    assert raw.ask(SAY, b"x").messages == [b"x"]


def test_metadata_of_any_kind_is_taken(front: Front) -> None:
    with grpc.insecure_channel(front.address) as channel:
        metadata = (("x-session-id", "s"), ("x-bytes-bin", bytes(range(256))), ("x-bytes-bin", b""))
        assert say(channel)(b"x", metadata=metadata, timeout=PATIENCE) == b"x"


@pytest.mark.parametrize("text", ["100% of it", "naïve, 木, 🙂", "two\nlines\tand\0zero", "", "%41%zz"])
def test_an_error_says_what_it_says_in_any_language(front: Front, text: str) -> None:
    with grpc.insecure_channel(front.address) as channel, pytest.raises(grpc.RpcError) as error:
        say(channel)(b"abort:" + text.encode(), timeout=PATIENCE)
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.FAILED_PRECONDITION, text)


def test_an_error_of_any_length_arrives(front: Front) -> None:
    with grpc.insecure_channel(front.address) as channel, pytest.raises(grpc.RpcError) as error:
        say(channel)(b"abort:" + b"long " * 200_000, timeout=PATIENCE)
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert str(error.value.details()).startswith("long long")


@given(st.integers(0, 16), st.text(max_size=4000), st.binary(max_size=9000))
@settings(max_examples=50, deadline=None)
def test_trailers_are_never_larger_than_clients_take(code: int, text: str, details: bytes) -> None:
    assert len(trailers(code, text, [("grpc-status-details-bin", details)], alone=True)) < TRAILERS_SIZE + 300


def test_text_that_is_no_unicode_is_no_reason_to_leave_a_call_without_an_end() -> None:
    assert b"grpc-message" in trailers(2, "a\ud800b", alone=True)


def test_binary_metadata_is_base64_without_padding() -> None:
    assert base64.b64encode(b"ab").rstrip(b"=") in trailers(2, "", [("x-bin", b"ab")], alone=True)


def test_a_block_that_cannot_be_a_call_is_not_remembered() -> None:
    encoder, reader = Encoder(), HeaderReader(Held(Memory(1 << 20)))
    block = encoder.encode([NeverIndexedHeaderTuple("x", "y")])
    for _ in range(2):
        with pytest.raises(StreamBroken):
            reader.read(block)
    reader.skip(block)
