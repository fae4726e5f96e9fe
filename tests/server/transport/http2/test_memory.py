"""What connections keep counts against one budget, and at its edge each still has its own."""

import logging
import random
from collections.abc import Iterator
from contextlib import suppress

import grpc
import pytest
from hyperframe.frame import HeadersFrame, RstStreamFrame
from statecell_server.transport.http2 import server as server_module
from statecell_server.transport.http2.memory import OWN, Held, Memory
from statecell_server.transport.http2.streams import CALL_BYTES
from statecell_server.transport.limits import Limits

from tests.server.transport.http2.conftest import settle
from tests.server.transport.http2.echo import COUNT, HOLD, SAY, TALK, Front
from tests.server.transport.http2.raw import Raw, heads, message

MIB = 1 << 20
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
OK, CALM = 0, 0xB


def kept(front: Front) -> int:
    """Bytes, by the server's own book."""
    return int(front.do(lambda: front.server._shared.memory.used))


@pytest.fixture(params=["uvloop", "asyncio"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """A server whose connections may keep 2 MiB."""
    monkeypatch.setattr(server_module, "LOOK_SECONDS", 0.05)
    loop_factory = pytest.importorskip("uvloop").new_event_loop if request.param == "uvloop" else None
    front = Front(loop_factory, Limits(memory=2 * MIB))
    yield front
    front.close()


def test_a_connection_s_own_bytes_do_not_count() -> None:
    memory = Memory(1000)
    one, two = Held(memory), Held(memory)
    assert one.add(OWN)
    assert memory.used == 0
    assert one.add(1000)
    assert not one.add(1)
    assert two.add(OWN)
    assert not two.add(1)
    assert memory.used == 1002
    one.add(-500)
    assert two.add(1)
    one.drop()
    assert memory.used == 2
    two.drop()
    assert memory.used == 0


def test_what_is_kept_is_given_back(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of all kinds and endings, over three connections; the book is then as it was before the first."""
    monkeypatch.setattr("statecell_server.transport.http2.memory.OWN", 0)
    monkeypatch.setattr("statecell_server.transport.http2.outflow.OWN", 0)
    chance = random.Random(5)
    with Raw(front.address) as one, Raw(front.address) as two, Raw(front.address, window=1000) as slow:
        for raw in (one, two, slow):
            for size in (3, 100):  # the same headers from now on
                raw.ask(SAY, b"x" * size)
        before = {raw: kept(front) for raw in (one,)}[one]
        for _ in range(60):
            raw = chance.choice((one, two, slow))
            match chance.randrange(7):
                case 0:
                    assert raw.ask(SAY, b"x" * chance.randrange(200_000) if raw is not slow else b"x").status == OK
                case 1:
                    raw.answer(raw.call(TALK, *[b"t" * chance.randrange(300)] * 3))
                case 2:  # cancelled with half of a message
                    stream = raw.call(COUNT, b"whole", end=False)
                    raw.send(raw.data(message(b"h" * 5000)[: chance.randrange(5000)]), RstStreamFrame(stream, error_code=8))
                case 3:  # messages that nobody takes
                    stream = raw.call(HOLD, b"u" * 2000, b"v", end=False)
                    raw.send(RstStreamFrame(stream, error_code=8))
                case 4:
                    assert raw.ask(SAY, b"x" * (5 * MIB)).status == EXHAUSTED
                case 5:  # an answer that is not taken
                    stream = slow.call(SAY, b"large:70000")
                    slow.ping()
                    slow.send(RstStreamFrame(stream, error_code=8))
                case 6:
                    raw.ask("/test.Echo/Nothing", b"x")
        for raw in (one, two, slow):
            raw.ping()
            assert raw.ask(SAY, b"x" * 100).messages == [b"x" * 100]
        front.do(lambda: [c._out.look() for c in front.server._connections])  # type: ignore[func-returns-value]
        # Other headers than at first are remembered; they are no more than these few.
        assert before <= kept(front) <= before + 3000
    settle(lambda: not front.connections)
    assert kept(front) == 0


def test_incomplete_messages_of_many_connections_leave_others_theirs(small: Front) -> None:
    with Raw(small.address) as good:
        held = [Raw(small.address) for _ in range(12)]
        ended = 0
        for raw in held:
            stream = raw.call(COUNT, end=False)
            raw.send(*[raw.data(piece) for piece in [message(b"x" * 500_000)[:16_384]] + [b"x" * 16_384] * 20])
            raw.ping()
            if raw.answers[stream].over:
                ended += 1
                assert raw.answers[stream].status == EXHAUSTED
                assert "--connection-memory" in raw.answers[stream].headers[-1]["grpc-message"]
        assert ended >= 4
        assert kept(small) <= 2 * MIB + 2 * 16_384
        for _ in range(20):
            assert good.ask(SAY, b"y" * 1000).messages == [b"y" * 1000]
        for raw in held:
            raw.socket.close()
        settle(lambda: small.connections == 1)
        assert good.ask(SAY, b"y" * MIB).messages == [b"y" * MIB]


def test_open_calls_count(small: Front) -> None:
    most = (2 * MIB + OWN) // CALL_BYTES
    with Raw(small.address) as many, Raw(small.address) as good:
        streams = [many.call(TALK, b"x", end=False) for _ in range(most + 20)]
        many.until(lambda: sum(many.answers[s].over for s in streams) >= 20)
        many.ping()
        refused = [s for s in streams if many.answers[s].over]
        assert 20 <= len(refused) <= 60
        assert {many.answers[s].status for s in refused} == {EXHAUSTED}
        assert good.ask(SAY, b"y").messages == [b"y"]
        many.send(*[many.data(end=True, stream=s) for s in streams if s not in refused])
        many.until(lambda: all(many.answers[s].over for s in streams))
        assert many.ask(SAY, b"y").messages == [b"y"]


def test_headers_that_are_not_complete_count(small: Front) -> None:
    held = []
    with Raw(small.address) as good:
        for _ in range(14):
            raw = Raw(small.address)
            with suppress(OSError):  # it is one that has to go
                raw.send(HeadersFrame(1, raw.block(heads(SAY))))
            for _ in range(14):
                with suppress(OSError):
                    raw.send((16_000 << 8 | 9).to_bytes(4, "big") + bytes(4) + b"\1" + b"b" * 16_000)
            held.append(raw)
        settle(lambda: small.connections < 15)
        assert kept(small) <= 2 * MIB
        assert good.ask(SAY, b"y").messages == [b"y"]
        for raw in held:
            raw.socket.close()


def test_answers_that_are_not_taken_count(small: Front) -> None:
    with Raw(small.address, window=1000) as slow, Raw(small.address) as good:
        streams = [slow.call(SAY, b"large:%d" % 400_000) for _ in range(10)]
        slow.until(lambda: sum(slow.answers[s].over for s in streams) >= 5)
        slow.ping()
        over = [s for s in streams if slow.answers[s].over]
        assert 5 <= len(over) <= 6
        assert {slow.answers[s].status for s in over} == {EXHAUSTED}
        assert kept(small) <= 2 * MIB + 10 * CALL_BYTES
        assert good.ask(SAY, b"y").messages == [b"y"]


def test_many_who_break_the_rules_make_few_lines(small: Front, caplog: pytest.LogCaptureFixture) -> None:
    def lines(text: str) -> list[str]:
        return [r.getMessage() for r in caplog.records if text in r.getMessage()]

    with caplog.at_level(logging.WARNING):
        for _ in range(200):
            with Raw(small.address, greet=False) as raw:
                raw.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert raw.ending() == 1
        settle(lambda: len(lines("a connection is closed")) + sum(int(x.split()[0]) for x in lines("more connections")) == 200)
    assert 1 <= len(lines("a connection is closed")) < 60
