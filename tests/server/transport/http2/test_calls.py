"""How calls end, and what is left of them."""

import threading
import time
from collections.abc import Iterator

import grpc
import pytest
from hyperframe.frame import GoAwayFrame, HeadersFrame, PriorityFrame, RstStreamFrame, WindowUpdateFrame

from tests.server.transport.http2.conftest import settle
from tests.server.transport.http2.echo import COUNT, HOLD, SAY, TALK, Front, repeat, say, talk
from tests.server.transport.http2.raw import PATIENCE, Raw, message


def test_a_reset_cancels_its_call_and_no_other(front: Front, raw: Raw) -> None:
    gone, stays = raw.call(SAY, b"wait"), raw.call(SAY, b"wait")
    held = raw.call(TALK, b"x", end=False)
    settle(lambda: front.echo.began == 2 and len(front.echo.exchanges) == 1)
    raw.send(RstStreamFrame(gone, 8), RstStreamFrame(held, 8))
    settle(lambda: front.echo.cancelled == 1 and front.echo.exchanges[0].cancelled)
    raw.ping()
    assert not raw.answers[stays].over
    assert front.calls == 1


def test_a_call_that_is_reset_in_the_packet_that_opens_it_never_begins(
    front: Front, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statecell_server.transport.http2.turns.SHARE", 3600.0)  # all of it is read in one turn
    raw.send(raw.headers(SAY), raw.data(message(b"wait"), end=True), RstStreamFrame(1, 8))
    raw.send(raw.headers(TALK), raw.data(message(b"wait")), RstStreamFrame(3, 8))
    assert raw.ask(SAY, b"x").messages == [b"x"]
    assert front.echo.began == 1
    assert front.echo.exchanges == []


def test_a_deadline_ends_a_call_whatever_it_is_doing(front: Front, raw: Raw) -> None:
    soon = {"grpc-timeout": "300m"}
    front.echo.holding = True
    streams = [
        raw.call(SAY, b"wait", more=soon),
        raw.call(SAY, end=False, more=soon),
        raw.call(TALK, b"x", end=False, more=soon),
        raw.call(COUNT, b"x", end=False, more=soon),
        raw.call(HOLD, b"x", end=False, more=soon),
    ]
    for stream in streams:
        assert raw.answer(stream).status == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    settle(lambda: front.echo.cancelled == 1 and front.echo.exchanges[0].cancelled)


def test_a_deadline_ends_a_call_whose_answer_is_half_sent(front: Front) -> None:
    """Its place is free, though the client does not take the rest."""
    with Raw(front.address, window=1000) as raw:
        stream = raw.call(TALK, b"a" * 5000, end=False, more={"grpc-timeout": "200m"})
        assert raw.answer(stream).status == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        assert len(raw.answers[stream].data) == 1000
        assert front.calls == 0


def test_a_deadline_that_has_passed_is_no_deadline_of_another_call(raw: Raw) -> None:
    assert raw.ask(SAY, b"x", more={"grpc-timeout": "100m"}).messages == [b"x"]
    time.sleep(0.2)
    assert raw.ask(SAY, b"x").messages == [b"x"]


@pytest.mark.parametrize(
    ("asked", "code", "says"),
    [
        (b"raise:by intent", grpc.StatusCode.UNKNOWN, "by intent"),
        (b"abort:by intent", grpc.StatusCode.FAILED_PRECONDITION, "by intent"),
    ],
)
def test_an_exception_ends_its_call_and_no_other(front: Front, asked: bytes, code: grpc.StatusCode, says: str) -> None:
    with grpc.insecure_channel(front.address) as channel:
        with pytest.raises(grpc.RpcError) as error:
            say(channel)(asked, timeout=PATIENCE)
        assert error.value.code() is code
        assert says in str(error.value.details())
        assert say(channel)(b"x", timeout=PATIENCE) == b"x"


def test_after_a_failure_an_exchange_receives_nothing_more(front: Front, raw: Raw) -> None:
    stream = raw.call(TALK, b"x", end=False)
    raw.ping()
    raw.send(*(raw.data(message(body)) for body in (b"y", b"fail", b"z", b"z")))
    answer = raw.answer(stream)
    assert (answer.messages, answer.status) == ([b"x", b"y"], grpc.StatusCode.UNKNOWN.value[0])
    assert front.echo.exchanges[0].received == [b"x", b"y", b"fail"]
    assert front.echo.exchanges[0].cancelled


def test_what_is_on_its_way_to_a_call_that_has_ended_is_no_fault(front: Front, raw: Raw) -> None:
    """Ten thousand small messages to each of three, and trailers."""
    for _ in range(3):
        stream = raw.call(TALK, b"fail", end=False)
        raw.send(*(raw.data(message(b"on its way")) for _ in range(10_000)))
        raw.send(HeadersFrame(stream, raw.block([("x-trailer", "y")]), flags=["END_HEADERS", "END_STREAM"]))
        assert raw.answer(stream).status == grpc.StatusCode.UNKNOWN.value[0]
    assert raw.ask(SAY, b"x").messages == [b"x"]
    assert raw.goaway is None


def test_a_client_that_goes_on_after_its_own_end_is_told(raw: Raw) -> None:
    stream = raw.call(SAY, b"wait")
    raw.send(raw.data(message(b"more")))
    assert raw.answer(stream).reset == 0x5
    stream = raw.call(SAY, b"wait")
    raw.send(raw.headers(SAY, stream=stream))
    assert raw.answer(stream).reset == 0x5


def test_trailers_of_the_client_end_its_messages(raw: Raw) -> None:
    raw.send(raw.headers(COUNT), raw.data(message(b"abc")))
    raw.send(HeadersFrame(1, raw.block([("x-trailer", "y")]), flags=["END_HEADERS", "END_STREAM"]))
    assert raw.answer(1).messages == [b"[3]"]
    raw.send(raw.headers(COUNT), HeadersFrame(3, raw.block([("x-trailer", "y")]), flags=["END_HEADERS"]))
    assert raw.answer(3).reset == 0x1


def test_a_stream_cannot_be_opened_twice(raw: Raw) -> None:
    raw.ask(SAY, b"x")
    raw.send(raw.headers(SAY, stream=1))
    assert raw.ending() == 0x5


def test_frames_for_streams_that_are_over_do_no_harm(raw: Raw) -> None:
    raw.ask(SAY, b"x")
    raw.send(WindowUpdateFrame(1, 10), RstStreamFrame(1, 8), PriorityFrame(1), GoAwayFrame(0))
    assert raw.ask(SAY, b"x").messages == [b"x"]


def test_answers_come_while_the_client_still_sends(front: Front) -> None:
    with grpc.insecure_channel(front.address) as channel:
        heard = threading.Semaphore(0)

        def bodies() -> Iterator[bytes]:
            for i in range(50):
                yield str(i).encode()
                assert heard.acquire(timeout=PATIENCE)

        for i, answer in enumerate(talk(channel)(bodies(), timeout=PATIENCE)):
            assert answer == str(i).encode()
            heard.release()


def test_a_call_of_many_answers_can_be_left(front: Front) -> None:
    with grpc.insecure_channel(front.address) as channel:
        call = repeat(channel)(b"1000000000", timeout=PATIENCE)
        assert [next(call) for _ in range(3)] == [b"0", b"1", b"2"]
        call.cancel()
        settle(lambda: front.calls == 0)


def test_when_the_server_stops_its_calls_are_answered_and_new_ones_refused(front: Front) -> None:
    front.echo.holding = True
    with Raw(front.address) as raw, Raw(front.address) as idle:
        stream = raw.call(TALK, b"held")
        raw.ping()
        idle.ping()
        stopped = threading.Thread(target=lambda: front.run(front.server.stop(PATIENCE)))
        stopped.start()
        assert idle.ending() == 0
        raw.until(lambda: raw.goaway is not None)
        assert raw.goaway is not None
        assert raw.goaway.last_stream_id == stream
        assert raw.answer(raw.call(SAY, b"late")).reset == 0x7
        with pytest.raises(OSError, match="refused"):
            Raw(front.address)
        front.do(front.echo.exchanges[0].release)
        assert raw.answer(stream).messages == [b"held"]
        assert raw.ending() == 0
        stopped.join()


def test_when_the_server_stops_calls_that_take_too_long_end_with_unavailable(front: Front) -> None:
    with Raw(front.address) as raw, Raw(front.address, window=10) as slow:
        stream, half = raw.call(SAY, b"wait"), slow.call(SAY, b"not taken")
        settle(lambda: front.echo.began == 2)
        slow.until(lambda: len(slow.answers[half].data) == 10)
        front.run(front.server.stop(0.1))
        assert raw.answer(stream).status == grpc.StatusCode.UNAVAILABLE.value[0]
        assert slow.answer(half).reset == 0x8
        assert (raw.ending(), slow.ending()) == (0, 0)
