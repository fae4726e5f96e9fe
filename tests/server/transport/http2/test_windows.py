"""Flow control, both ways."""

import threading

import pytest
from hyperframe.frame import DataFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame
from statecell_server.transport.exchange import WINDOW

from tests.server.transport.http2.conftest import settle
from tests.server.transport.http2.echo import COUNT, HOLD, SAY, TALK, Front
from tests.server.transport.http2.raw import LARGEST, Raw, message

LARGE = 300_000
MIB = 1 << 20


def large(size: int = LARGE) -> bytes:
    return f"large:{size}".encode()


def test_a_client_that_takes_a_byte_at_a_time_gets_its_answer(front: Front) -> None:
    with Raw(front.address, window=1) as raw:
        stream = raw.call(SAY, b"abcdefgh" * 5)
        for i in range(1, 45):
            raw.until(lambda i=i: len(raw.answers[stream].data) == i)  # type: ignore[misc]
            assert not raw.answers[stream].over
            raw.send(WindowUpdateFrame(stream, 1))
        assert raw.answer(stream).messages == [b"abcdefgh" * 5]


def test_a_client_without_a_window_waits_while_others_are_served(front: Front) -> None:
    with Raw(front.address, window=0) as raw:
        waiting = raw.call(SAY, large())
        quick = raw.call(SAY, b"quick")
        raw.send(WindowUpdateFrame(quick, 100))
        assert raw.answer(quick).messages == [b"quick"]
        assert raw.answers[waiting].data == b""
        raw.send(WindowUpdateFrame(waiting, LARGE + 5))
        assert raw.answer(waiting).messages == [b"a" * LARGE]
        assert raw.answers[waiting].status == 0


def test_answers_stay_in_order_when_the_window_closes_between_them(front: Front) -> None:
    with Raw(front.address, window=100) as raw:
        bodies = [str(i).encode() * (i % 7) for i in range(500)]
        stream = raw.call(TALK, *bodies)
        while not raw.answers[stream].over:
            raw.send(WindowUpdateFrame(stream, 33))
            raw.read()
        assert raw.answers[stream].messages == bodies


def test_settings_may_take_back_what_was_given(front: Front) -> None:
    """A window below zero sends nothing until it is above."""
    with Raw(front.address, window=50_000) as raw:
        stream = raw.call(SAY, large())
        raw.until(lambda: len(raw.answers[stream].data) == 50_000)
        raw.send(SettingsFrame(0, settings={4: 10_000}))  # and so -40,000
        raw.send(WindowUpdateFrame(stream, 40_000))
        raw.ping()
        assert len(raw.answers[stream].data) == 50_000
        raw.send(WindowUpdateFrame(stream, 7))
        raw.until(lambda: len(raw.answers[stream].data) == 50_007)
        raw.send(SettingsFrame(0, settings={4: LARGEST}))
        assert raw.answer(stream).messages == [b"a" * LARGE]


def test_the_last_of_equal_settings_counts(front: Front) -> None:
    with Raw(front.address, window=0) as raw:
        stream = raw.call(SAY, b"x" * 100)
        setting = SettingsFrame(0, settings={4: 5}).serialize()[9:]
        last = SettingsFrame(0, settings={4: 0}).serialize()[9:]
        raw.send(b"\0\0\x0c\4\0\0\0\0\0" + setting + last)
        raw.ping()
        assert raw.answers[stream].data == b""
        raw.send(b"\0\0\x0c\4\0\0\0\0\0" + last + setting)
        raw.until(lambda: len(raw.answers[stream].data) == 5)


def test_the_connections_window_is_shared_by_all_of_its_calls(front: Front) -> None:
    """Also by small steps: none of them waits until another is done."""
    with Raw(front.address, greet=False) as raw:
        raw.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        raw.send(SettingsFrame(0, settings={4: LARGEST}))
        streams = [raw.call(SAY, large()) for _ in range(5)]
        raw.until(lambda: sum(len(raw.answers[s].data) for s in streams) == 65_535)
        for _ in range(30):
            raw.send(WindowUpdateFrame(0, 5000))
            raw.ping()
        assert min(len(raw.answers[s].data) for s in streams) > 20_000
        raw.send(WindowUpdateFrame(0, 5 * LARGE))
        for s in streams:
            assert raw.answer(s).messages == [b"a" * LARGE]


def test_large_answers_do_not_hold_up_small_ones(raw: Raw) -> None:
    streams = [raw.call(SAY, large(20 * MIB)) for _ in range(3)]
    raw.until(lambda: len(raw.answers[streams[0]].data) > 0)
    quick = raw.call(SAY, b"quick")
    assert raw.answer(quick).messages == [b"quick"]
    assert not any(raw.answers[s].over for s in streams)
    for s in streams:
        assert len(raw.answer(s).data) == 20 * MIB + 5


def data_frames(raw: Raw, stream: int) -> list[int]:
    """The sizes of those that came."""
    return [len(f.data) for f in raw.seen if isinstance(f, DataFrame) and f.stream_id == stream]


def test_answers_come_in_frames_as_large_as_the_client_takes(raw: Raw) -> None:
    """Pieces of one that has to wait are smaller: others wait as well."""
    whole = 200_005
    for most, largest in ((16_384, 16_384), (100_000, 64 << 10), ((1 << 24) - 1, whole), (20_000, 20_000)):
        raw.send(SettingsFrame(0, settings={5: most}))
        stream = raw.call(SAY, large(200_000))
        assert raw.answer(stream).messages == [b"a" * 200_000]
        assert max(data_frames(raw, stream)) == largest


def test_large_answers_take_turns_in_frames_of_any_size(raw: Raw) -> None:
    raw.send(SettingsFrame(0, settings={5: (1 << 24) - 1}))
    streams = [raw.call(SAY, large(MIB)) for _ in range(20)]
    for s in streams:
        assert raw.answer(s).messages == [b"a" * MIB]
        assert max(data_frames(raw, s)) == 64 << 10


def test_a_client_that_stops_reading_its_socket_costs_no_one_else(front: Front) -> None:
    with Raw(front.address) as deaf, Raw(front.address) as other:
        streams = [deaf.call(SAY, large(2 * MIB)) for _ in range(10)]
        for i in range(100):
            assert other.ask(SAY, str(i).encode()).messages == [str(i).encode()]
        for s in streams:
            assert len(deaf.answer(s).data) == 2 * MIB + 5


def test_a_client_may_send_far_more_than_a_window(raw: Raw) -> None:
    """It is given back, of the call and of the connection."""
    part = message(bytes(16_000))
    raw.send(raw.headers(COUNT))
    left, count = MIB, 2500
    for _ in range(count):
        while left + raw.granted[1] < len(part):
            assert raw.read()
        left -= len(part)
        raw.send(raw.data(part))
    raw.send(raw.data(end=True))
    assert raw.answer(1).messages == [str([16_000] * count).encode()]
    assert raw.granted[0] > 16 * MIB


def test_a_message_larger_than_its_window_arrives(raw: Raw) -> None:
    body = bytes(range(256)) * 15_000
    whole = message(body)
    raw.send(raw.headers(SAY))
    at = 0
    while at < len(whole):
        while at + 16_000 > MIB + raw.granted[1]:
            assert raw.read()
        raw.send(raw.data(whole[at : at + 16_000], end=at + 16_000 >= len(whole)))
        at += 16_000
    assert raw.answer(1).messages == [body]


@pytest.mark.parametrize("path", [SAY, HOLD])
def test_more_than_the_window_is_refused(raw: Raw, path: str) -> None:
    """Of a call that is not read it is not given back."""
    part = message(bytes(16_000))
    raw.send(raw.headers(path), *(raw.data(part) for _ in range(MIB // len(part))))
    raw.ping()
    assert raw.granted[1] == 0
    raw.send(raw.data(part), raw.data(part))
    assert raw.answer(1).reset == 0x3
    assert raw.ask(SAY, b"x").messages == [b"x"]


def test_a_full_exchange_is_not_sent_more_and_resumes(front: Front, raw: Raw) -> None:
    front.echo.holding = True
    part = message(bytes(2000))
    stream = raw.call(TALK, end=False)
    count = 0
    while room := (MIB + raw.granted[stream]) // len(part) - count:
        raw.send(*(raw.data(part) for _ in range(room)))
        raw.ping()
        count += room
    (exchange,) = front.echo.exchanges
    assert len(exchange.received) == WINDOW < count
    granted = raw.granted[stream]
    assert granted < 3 * MIB
    front.do(exchange.release)
    raw.until(lambda: raw.granted[stream] > granted)
    raw.send(raw.data(end=True))
    assert raw.answer(stream).messages == [bytes(2000)] * count


def test_complete_messages_that_nobody_takes_hold_back_the_connections_window(front: Front) -> None:
    """A client can make the server hold so much, and not a gigabyte by leaving calls open."""
    with Raw(front.address) as raw, Raw(front.address) as other:
        body = message(bytes(MIB - 5))
        sent = 0
        raw.ping()
        while 65_535 + raw.granted[0] - sent >= MIB:  # twice --max-message is 8 MiB, and a window of 16
            assert sent < 28 * MIB
            raw.send(raw.headers(SAY))
            raw.send(*(raw.data(body[at : at + 16_384]) for at in range(0, MIB, 16_384)))
            sent += MIB
            raw.ping()
        assert sent >= 15 * MIB
        assert other.ask(SAY, b"x").messages == [b"x"]
        before = raw.granted[0]
        raw.send(*(raw.data(end=True, stream=s) for s in range(1, 2 * (sent // MIB), 2)))
        raw.until(lambda: raw.granted[0] > before)
        assert raw.answer(1).messages == [bytes(MIB - 5)]


def test_what_nobody_takes_is_forgotten_with_its_calls(front: Front) -> None:
    with Raw(front.address) as raw:
        body = message(bytes(MIB - 5))
        for _ in range(60):
            raw.send(raw.headers(SAY), *(raw.data(body[at : at + 16_384]) for at in range(0, MIB, 16_384)))
            raw.send(RstStreamFrame(raw.stream, 8))
            raw.ping()
        assert raw.granted[0] > 40 * MIB
        assert raw.ask(SAY, b"x").messages == [b"x"]


def test_a_client_that_sends_all_before_it_reads_anything_is_served(front: Front) -> None:
    """What it does not read is more than the server keeps: it is not read either until it reads."""
    count = 15_000
    with Raw(front.address) as raw:
        asked = message(b"abort:" + b"y" * 900)
        frames = b"".join(raw.headers(SAY).serialize() + raw.data(asked, end=True).serialize() for _ in range(count))
        writer = threading.Thread(target=raw.socket.sendall, args=(frames,))
        writer.start()
        settle(lambda: any(not connection._transport.is_reading() for connection in front.server._connections))
        raw.answer(2 * count - 1)
        writer.join()
        assert all(raw.answer(2 * i + 1).headers[0]["grpc-message"] == "y" * 900 for i in range(count))


def test_a_client_that_leaves_while_answers_are_on_their_way_leaves_no_error_behind(front: Front) -> None:
    """Neither when its turn is to come, nor when it waits for its windows. The fixture sees what the loop complains of."""
    for each in range(40):
        with Raw(front.address, window=LARGEST if each % 2 else 300_000) as raw:
            streams = [raw.call(SAY, large(300_000)) for _ in range(60)]
            while sum(len(answer.data) for answer in raw.answers.values()) < (1 + each % 5) * 100_000:
                raw.read()
            raw.send(*(WindowUpdateFrame(s, 200_000) for s in streams))
    with Raw(front.address) as raw:
        assert raw.ask(SAY, b"x").messages == [b"x"]
