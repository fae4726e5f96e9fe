"""A client whose connections break: every step is applied once and the caller sees a delay at most."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from statecell_client import Client, Retry, ServerUnreachable, Session, StepUnsettled

from tests.clients.proxy import Proxy, proxy_to

XS = np.random.default_rng(0).standard_normal((400, 10)).astype(np.float32)
QUICK = Retry(timeout=10, first_pause=0.01, longest_pause=0.05)


@pytest.fixture
def proxy(address: str) -> Iterator[Proxy]:
    with proxy_to(address) as proxy:
        yield proxy


@pytest.fixture
def shaky(proxy: Proxy) -> Iterator[Client]:
    """A client behind the proxy."""
    with Client(proxy.address, retry=QUICK) as client:
        yield client


@pytest.fixture(scope="module")
def undisturbed(address: str) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    with Client(address) as client, client.session("lstm") as session:
        return np.stack(list(session.stream(XS)))


def steps_of(client: Client, session: Session) -> int:
    """Where the server has the session."""
    return next(s.step_index for s in client.sessions() if s.id == session.id)


def test_a_step_whose_reply_is_lost_is_applied_once(
    client: Client, shaky: Client, proxy: Proxy, undisturbed: np.ndarray[tuple[int, int], np.dtype[np.float32]]
) -> None:
    with shaky.session("lstm") as session:
        for t, x in enumerate(XS[:10]):
            if t % 3 == 1:
                proxy.lose_the_reply()
            np.testing.assert_array_equal(session.step(x), undisturbed[t])
            assert steps_of(client, session) == session.step_index == t + 1
    assert proxy.connections >= 4


@pytest.mark.parametrize("ahead", [1, 8])
def test_a_stream_that_breaks_goes_on_as_if_nothing_had_been(
    shaky: Client, proxy: Proxy, undisturbed: np.ndarray[tuple[int, int], np.dtype[np.float32]], ahead: int
) -> None:
    with shaky.session("lstm") as session:
        for t, y in enumerate(session.stream(XS, ahead=ahead)):
            np.testing.assert_array_equal(y, undisturbed[t])
            if t % 100 == 20:
                proxy.lose_the_reply()
            if t % 100 == 70:
                proxy.cut()
        assert session.step_index == len(XS)
    assert proxy.connections >= 6


def test_a_long_run_that_breaks_goes_on_as_if_nothing_had_been(
    shaky: Client, proxy: Proxy, undisturbed: np.ndarray[tuple[int, int], np.dtype[np.float32]]
) -> None:
    with shaky.session("lstm") as session:
        proxy.lose_the_reply()
        np.testing.assert_array_equal(session.run(XS[:, None])[:, 0], undisturbed)


def test_a_server_that_is_away_for_a_while_is_waited_for(shaky: Client, proxy: Proxy) -> None:
    with shaky.session("lstm") as session:
        session.step(XS[0])
        proxy.refuse()
        back = threading.Timer(0.5, proxy.refuse, [False])
        back.start()
        began = time.monotonic()
        session.step(XS[1])
        assert 0.3 < time.monotonic() - began < 5
        back.join()


def test_a_server_that_stays_away_is_given_up_and_the_step_may_be_repeated(proxy: Proxy, client: Client) -> None:
    retry = Retry(timeout=0.5, first_pause=0.05, longest_pause=0.1)
    with Client(proxy.address, retry=retry) as shaky:
        session = shaky.session("lstm")
        first = session.step(XS[0])
        proxy.refuse()
        with pytest.raises(ServerUnreachable, match=proxy.address):
            session.step(XS[1])
        with pytest.raises(StepUnsettled, match="step_index 1"):
            session.step(XS[2])
        proxy.refuse(False)
        time.sleep(1.1)  # gRPC's own pause between connections
        second = session.step(XS[1])
        with client.session("lstm") as other:
            np.testing.assert_array_equal(other.step(XS[0]), first)
            np.testing.assert_array_equal(other.step(XS[1]), second)
        proxy.refuse()
        with pytest.raises(ServerUnreachable):
            session.step(XS[2])
        proxy.refuse(False)
        time.sleep(1.1)
        assert session.state["h_0"].shape == (2, 1, 20)
        assert session.step_index == 2
        session.step(XS[3])
        session.close()


def test_an_error_in_the_block_is_not_hidden_by_a_session_that_cannot_be_deleted(proxy: Proxy) -> None:
    def use() -> None:
        retry = Retry(timeout=0.2, first_pause=0.05, longest_pause=0.1)
        with Client(proxy.address, retry=retry) as client, client.session("lstm"):
            proxy.refuse()
            raise LookupError("the caller's own")

    with pytest.raises(LookupError, match="the caller's own") as caught:
        use()
    assert "could not be deleted either" in caught.value.__notes__[0]


def test_another_address_serves_where_one_is_down(address: str, proxy: Proxy) -> None:
    with Client([proxy.address, address], retry=QUICK) as client:
        proxy.refuse()
        for _ in range(4):
            with client.session("lstm") as session:
                session.step(XS[0])


def test_a_durable_session_moves_to_another_address_in_the_middle_of_a_stream(
    address: str, proxy: Proxy, undisturbed: np.ndarray[tuple[int, int], np.dtype[np.float32]]
) -> None:
    with proxy_to(address) as other, Client([proxy.address, other.address], retry=QUICK) as client:
        session = client.attach(client.session("lstm").id, durable=True)
        for t, y in enumerate(session.stream(XS[:100], ahead=1)):
            np.testing.assert_array_equal(y, undisturbed[t])
            if t == 20:
                proxy.refuse()
            if t == 50:
                proxy.refuse(False)
                other.refuse()
        assert session.step_index == 100
        assert (proxy.connections > 0, other.connections > 0) == (True, True)
        other.refuse(False)
        session.close()


def test_a_connection_that_falls_silent_counts_as_broken(
    address: str, proxy: Proxy, undisturbed: np.ndarray[tuple[int, int], np.dtype[np.float32]]
) -> None:
    impatient = Retry(timeout=20, first_pause=0.01, longest_pause=0.05, silence=1.2)
    with proxy_to(address) as other, Client([proxy.address, other.address], retry=impatient) as client:
        session = client.attach(client.session("lstm").id, durable=True)
        np.testing.assert_array_equal(session.step(XS[0]), undisturbed[0])
        proxy.swallowing.set()
        began = time.monotonic()
        for t in range(1, 4):
            np.testing.assert_array_equal(session.step(XS[t]), undisturbed[t])
        proxy.swallowing.clear()
        other.swallowing.set()
        for t, y in enumerate(session.stream(XS[4:8], ahead=1), 4):
            np.testing.assert_array_equal(y, undisturbed[t])
        # No sooner than a ping that was just due has waited for its answer, a third of `silence`.
        assert impatient.silence / 3 <= time.monotonic() - began < 10
        assert session.step_index == 8
