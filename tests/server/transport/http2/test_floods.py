"""Clients that cost more than they give."""

import contextlib
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.conftest import Serve, Server
from tests.server.caller import Caller
from tests.server.transport.http2.conftest import settle
from tests.server.transport.http2.echo import SAY, TALK, Front
from tests.server.transport.http2.raw import Raw, heads, message

MANY = 40_000
"""More than an allowance has at once, and than it gains while they come."""
CALM = 0xB


def resets(raw: Raw) -> Iterator[bytes]:
    while True:
        yield raw.headers(TALK).serialize() + RstStreamFrame(raw.stream, 8).serialize()


def broken_streams(raw: Raw) -> Iterator[bytes]:
    """That the server resets itself, by the client's fault."""
    while True:
        yield raw.headers(TALK).serialize() + b"\0\0\4\x08\0" + raw.stream.to_bytes(4, "big") + bytes(4)


def data_after_the_end(raw: Raw) -> Iterator[bytes]:
    yield raw.headers(SAY, end=True).serialize()
    while True:
        yield raw.data(b"x", stream=1).serialize()


def malformed_calls(raw: Raw) -> Iterator[bytes]:
    while True:
        raw.stream += 2
        yield HeadersFrame(raw.stream, raw.block([("x", "y")]), flags=["END_HEADERS", "END_STREAM"]).serialize()


def empty_data(raw: Raw) -> Iterator[bytes]:
    yield raw.headers(TALK).serialize()
    while True:
        yield raw.data(b"").serialize()


def empty_data_to_a_call_that_is_over(raw: Raw) -> Iterator[bytes]:
    yield raw.headers("/test.Echo/Nothing").serialize()
    while True:
        yield raw.data(b"").serialize()


def continuations(size: int) -> Callable[[Raw], Iterator[bytes]]:
    def endless(raw: Raw) -> Iterator[bytes]:
        yield HeadersFrame(1, raw.block(heads(SAY))).serialize()
        while True:
            yield ContinuationFrame(1, b"\x82" * size).serialize()

    return endless


def windows_of_many_calls(raw: Raw) -> Iterator[bytes]:
    """One small frame that changes the windows of ten thousand calls."""
    yield b"".join(raw.headers(TALK).serialize() for _ in range(10_000))
    while True:
        for window in (100_000, 200_000):
            yield SettingsFrame(0, settings={4: window}).serialize()


def windows_of_many_calls_that_wait(raw: Raw) -> Iterator[bytes]:
    """The same, where each change sends a byte of every call's answer."""
    yield SettingsFrame(0, settings={4: 0}).serialize()
    for _ in range(2000):
        yield raw.headers(SAY).serialize() + raw.data(message(b"x" * 2000), end=True).serialize()
    for window in range(1, 1_000_000):
        yield SettingsFrame(0, settings={4: window}).serialize()


def endless(frame: bytes) -> Callable[[Raw], Iterator[bytes]]:
    def same(_: Raw) -> Iterator[bytes]:
        while True:
            yield frame

    return same


FLOODS = {
    "resets": resets,
    "broken streams": broken_streams,
    "data after the end": data_after_the_end,
    "malformed calls": malformed_calls,
    "empty data": empty_data,
    "empty data to a call that is over": empty_data_to_a_call_that_is_over,
    "empty continuations": continuations(0),
    "short continuations": continuations(1),
    "long continuations": continuations(16_000),
    "windows of many calls": windows_of_many_calls,
    "windows of many calls that wait": windows_of_many_calls_that_wait,
    "pings": endless(PingFrame(0, b"12345678").serialize()),
    "settings": endless(SettingsFrame(0, settings={1: 100}).serialize()),
    "priorities": endless(PriorityFrame(1, depends_on=0).serialize()),
    "unknown frames": endless(b"\0\0\1\xee\0\0\0\0\1x"),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_a_flood_ends_its_connection_while_others_are_served(front: Front, flood: Callable[[Raw], Iterator[bytes]]) -> None:
    with Raw(front.address) as raw, Raw(front.address) as other:
        frames = flood(raw)

        def send() -> None:
            try:
                for _ in range(MANY // 200):
                    raw.socket.sendall(b"".join(next(frames) for _ in range(200)))
            except OSError:  # the connection is closed
                return

        writer = threading.Thread(target=send)
        writer.start()
        for i in range(20):
            assert other.ask(SAY, str(i).encode()).messages == [str(i).encode()]
        assert raw.ending() == CALM
        raw.socket.close()
        writer.join()
        assert other.ask(SAY, b"still here").messages == [b"still here"]
    settle(lambda: front.calls == 0)


def test_windows_changed_under_calls_that_wait_for_them_cost_by_the_call(front: Front) -> None:
    """A thousand changes are few, but not where each sends a byte on each of two thousand calls."""
    with Raw(front.address) as raw:
        changes = windows_of_many_calls_that_wait(raw)
        raw.send(*(next(changes) for _ in range(2001)))
        settle(lambda: front.echo.began == 2000)
        closed = threading.Event()

        def read() -> None:
            with contextlib.suppress(OSError):
                while raw.socket.recv(1 << 20):
                    pass
            closed.set()

        reader = threading.Thread(target=read)
        reader.start()
        sent = 0
        with contextlib.suppress(OSError):
            while not closed.wait(0.004):  # so that each has a turn of its own
                raw.send(next(changes))
                sent += 1
                assert sent < 5000
        reader.join()
        assert sent > 100


def test_ten_thousand_resets_at_once_are_no_flood(raw: Raw) -> None:
    """A client that ends with ten thousand calls open resets them all."""
    count = 9_900
    raw.send(*(raw.headers(TALK) for _ in range(count)))
    raw.send(*(RstStreamFrame(2 * i + 1, 8) for i in range(count)))
    assert raw.ask(SAY, b"x").messages == [b"x"]


def test_a_client_that_widens_its_window_byte_by_byte_costs_no_more_than_the_bytes(front: Front) -> None:
    """Also with thousands of calls that wait for them."""
    with Raw(front.address, greet=False) as raw:
        raw.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        raw.send(SettingsFrame(0, settings={4: 1 << 20}))
        for _ in range(3000):
            raw.call(SAY, b"x" * 100)
        raw.until(lambda: sum(len(answer.data) for answer in raw.answers.values()) == 65_535)
        for _ in range(2000):
            raw.send(WindowUpdateFrame(0, 1))
        raw.until(lambda: sum(len(answer.data) for answer in raw.answers.values()) == 67_535)
        with Raw(front.address) as other:
            assert other.ask(SAY, b"x").messages == [b"x"]


def resident(server: Server) -> int:
    """Bytes of memory that the server has now."""
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.fixture(scope="module")
def victim(serve: Serve) -> Iterator[Server]:
    with serve("--log-level", "WARNING") as server:
        yield server


def endless_refusals(raw: Raw) -> Iterator[bytes]:
    while True:
        yield raw.headers("/no/Such", end=True).serialize()


def endless_errors(raw: Raw) -> Iterator[bytes]:
    wrong = message(b"\xff\xff\xff")
    while True:
        yield raw.headers("/statecell.v1.InferenceService/Step").serialize() + raw.data(wrong, end=True).serialize()


def endless_models(raw: Raw) -> Iterator[bytes]:
    """A small question with an answer of kilobytes."""
    while True:
        yield (
            raw.headers("/statecell.v1.InferenceService/ListModels").serialize() + raw.data(message(b""), end=True).serialize()
        )


@pytest.mark.parametrize(("flood", "count"), [(endless_refusals, 20_000), (endless_errors, 20_000), (endless_models, 2500)])
def test_a_client_that_asks_and_never_reads_costs_a_bounded_amount_of_memory(
    victim: Server, flood: Callable[[Raw], Iterator[bytes]], count: int
) -> None:
    """It is not read either after some megabytes; what it asks is answered when it reads."""
    caller = Caller(victim.address)
    session = caller.create("lstm")
    with Raw(victim.address, window=0 if flood is endless_models else 65_535) as raw:
        before = resident(victim)
        frames = flood(raw)
        raw.socket.settimeout(3)
        sent = 0
        try:
            while sent < count:
                raw.socket.sendall(b"".join(next(frames) for _ in range(500)))
                sent += 500
        except TimeoutError:
            pass
        caller.index(session)
        assert resident(victim) - before < 400 << 20
    caller.index(session)
    caller.channel.close()


@pytest.mark.parametrize("flood", [PingFrame(0, opaque_data=b"unasked.", flags=["ACK"]), SettingsFrame(0, flags=["ACK"])])
def test_acknowledgements_that_nobody_asked_for_are_counted(raw: Raw, flood: Frame) -> None:
    raw.send(flood.serialize() * MANY)
    assert raw.ending() == CALM
