"""What calls and connections leave behind: nothing."""

import gc
import threading
import weakref
from collections.abc import Iterator

import grpc
import pytest
from hyperframe.frame import RstStreamFrame
from statecell_server.transport.http2.call import Call
from statecell_server.transport.http2.connection import Connection

from tests.server.transport.http2.conftest import settle
from tests.server.transport.http2.echo import COUNT, REPEAT, SAY, TALK, Front
from tests.server.transport.http2.raw import Raw, message


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What has gone must go by itself: a server collects rarely."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def count(kind: type) -> int:
    return sum(type(found) is kind for found in gc.get_objects())


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("more", [{}, {"grpc-timeout": "1H"}], ids=["without a deadline", "with a deadline"])
def test_calls_leave_nothing(front: Front, raw: Raw, more: dict[str, str]) -> None:
    """Not even circles."""
    before = count(Call)
    for _ in range(25):
        for _ in range(40):
            raw.call(SAY, b"x", more=more)
            raw.call(TALK, b"x", more=more)
            raw.call(COUNT, b"x", more=more)
            raw.call(REPEAT, b"2", more=more)
            raw.call("/test.Echo/Nothing", b"x", more=more)
            raw.call(SAY, b"abort:x", more=more)
            raw.send(raw.headers(TALK, more=more), RstStreamFrame(raw.stream, 8))
            raw.call(SAY, b"wait", more=more)
            raw.ping()
            raw.send(RstStreamFrame(raw.stream, 8))
        raw.ping()
    settle(lambda: front.calls == 0)
    front.echo.exchanges.clear()
    settle(lambda: count(Call) - before < 50)


@pytest.mark.usefixtures("no_collector")
def test_deadlines_that_have_passed_leave_nothing(front: Front, raw: Raw) -> None:
    before = count(Call)
    for _ in range(300):
        raw.call(SAY, b"wait", more={"grpc-timeout": "1m"})
        raw.call(TALK, b"x", end=False, more={"grpc-timeout": "1m"})
    raw.ping()  # all of them have begun
    settle(lambda: front.calls == 0)
    front.echo.exchanges.clear()
    settle(lambda: count(Call) - before < 20)


def test_connections_leave_nothing(front: Front) -> None:
    """Whether they end between calls, within one, or within a frame."""
    for i in range(1000):
        with Raw(front.address, window=10) as raw:
            if i % 4 == 0:
                raw.ask(SAY, b"x")
            elif i % 4 == 1:
                raw.call(SAY, b"wait")
                raw.ping()
            elif i % 4 == 2:
                raw.call(TALK, b"x" * 100, end=False)
            else:
                raw.ping()
                raw.send(raw.headers(TALK), raw.data(message(b"x")).serialize()[:-1])
    settle(lambda: front.connections == 0)
    front.echo.exchanges.clear()
    front.do(gc.collect)
    settle(lambda: count(Connection) < 5 and count(Call) < 5)


@pytest.mark.usefixtures("no_collector")
def test_a_connection_that_is_over_is_no_circle(front: Front) -> None:
    with Raw(front.address) as raw:
        raw.ask(SAY, b"x")
        found = [weakref.ref(connection) for connection in front.server._connections]
    settle(lambda: front.connections == 0)
    settle(lambda: all(ref() is None for ref in found))


def test_ten_thousand_calls_from_many_threads_leave_nothing(front: Front) -> None:
    with grpc.insecure_channel(front.address) as channel:
        stub: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(SAY)
        wrong: list[bytes] = []

        def ask(i: int) -> None:
            for k in range(0, 2500, 50):
                asked = [f"{i}.{k + j}".encode() for j in range(50)]
                answers = [stub.future(a, timeout=60) for a in asked]
                wrong.extend(a for a, answer in zip(asked, answers, strict=True) if answer.result() != a)

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
    settle(lambda: front.connections == 0)
    assert front.echo.began == 10_000
    front.do(gc.collect)
    settle(lambda: count(Call) == 0)
