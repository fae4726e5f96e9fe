"""Clients of other languages whose connections break: every step is applied once and the caller sees a delay at most."""

import socket
import threading
import time
from typing import Any

import numpy as np
import pytest
from statecell_client import Client

from tests.clients.languages.driver import Array, Driver, Failed
from tests.clients.proxy import Proxy, proxy_to

XS = np.random.default_rng(0).standard_normal((60, 10)).astype(np.float32)


@pytest.fixture(scope="module")
def undisturbed(address: str) -> Array:
    with Client(address) as client, client.session("lstm") as session:
        return np.stack(list(session.stream(XS)))


def test_a_step_whose_reply_is_lost_is_applied_once(shaky: Driver, proxy: Proxy, client: Client, undisturbed: Array) -> None:
    shaky.session("a", "lstm")
    for t, x in enumerate(XS[:12]):
        if t % 3 == 1:
            proxy.lose_the_reply()
        np.testing.assert_array_equal(shaky.step("a", x), undisturbed[t])
        assert shaky.index("a") == t + 1
    assert client.attach(shaky.ask("id", "a")).step_index == 12
    assert proxy.connections >= 5


def test_a_stream_that_breaks_goes_on_as_if_nothing_had_been(shaky: Driver, proxy: Proxy, undisturbed: Array) -> None:
    shaky.session("a", "lstm")
    for t, y in enumerate(shaky.stream("a", XS)):
        np.testing.assert_array_equal(y, undisturbed[t])
        if t % 20 == 5:
            proxy.lose_the_reply()
        if t % 20 == 15:
            proxy.cut()
    assert shaky.index("a") == len(XS)
    assert proxy.connections >= 6


def test_a_server_that_is_away_for_a_while_is_waited_for(shaky: Driver, proxy: Proxy, undisturbed: Array) -> None:
    shaky.session("a", "lstm")
    shaky.step("a", XS[0])
    proxy.refuse()
    back = threading.Timer(0.5, proxy.refuse, [False])
    back.start()
    np.testing.assert_array_equal(shaky.step("a", XS[1]), undisturbed[1])
    back.join()


def test_a_server_that_stays_away_is_given_up_and_the_step_may_be_repeated(
    unconnected: Driver, proxy: Proxy, undisturbed: Array
) -> None:
    unconnected.connect(proxy.address, timeout=0.5)
    unconnected.session("a", "lstm")
    unconnected.step("a", XS[0])
    proxy.refuse()
    began = time.monotonic()
    with pytest.raises(Failed, match=proxy.address) as failed:
        unconnected.step("a", XS[1])
    assert failed.value.kind == "ServerUnreachable"
    assert 0.3 < time.monotonic() - began < 5
    with pytest.raises(Failed, match="step_index 1") as failed:
        unconnected.step("a", XS[2])
    assert failed.value.kind == "StepUnsettled"
    proxy.refuse(False)
    time.sleep(1.2)  # gRPC's own pause between connections
    np.testing.assert_array_equal(unconnected.step("a", XS[1]), undisturbed[1])
    np.testing.assert_array_equal(unconnected.step("a", XS[2]), undisturbed[2])


def test_reading_the_state_settles_where_the_session_stands(unconnected: Driver, proxy: Proxy) -> None:
    unconnected.connect(proxy.address, timeout=0.5)
    unconnected.session("a", "lstm")
    proxy.refuse()
    with pytest.raises(Failed):
        unconnected.step("a", XS[0])
    proxy.refuse(False)
    time.sleep(1.2)
    assert unconnected.state("a").keys() == {"h_0", "c_0"}
    unconnected.step("a", XS[1])
    assert unconnected.index("a") == 1


def test_another_address_serves_where_one_is_down(unconnected: Driver, address: str, proxy: Proxy) -> None:
    unconnected.connect(proxy.address, address)
    proxy.refuse()
    for name in "abcd":
        unconnected.session(name, "lstm")
        unconnected.step(name, XS[0])


def test_another_address_serves_where_one_takes_connections_and_says_nothing(unconnected: Driver, address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        unconnected.connect(f"127.0.0.1:{mute.getsockname()[1]}", address, timeout=20, silence=1)
        for name in "abc":
            unconnected.session(name, "lstm")
            unconnected.step(name, XS[0])


def _move(driver: Driver, proxies: tuple[Proxy, Proxy], answers: Any, undisturbed: Array) -> None:
    here, there = proxies
    for t, y in enumerate(answers):
        np.testing.assert_array_equal(y, undisturbed[t])
        if t == 20:
            here.refuse()
        if t == 40:
            here.refuse(False)
            there.refuse()
    assert driver.index("a") == len(XS)
    assert (here.connections, there.connections) >= (1, 1)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_durable_session_moves_to_another_address(
    unconnected: Driver, client: Client, address: str, proxy: Proxy, undisturbed: Array, streamed: bool
) -> None:
    with proxy_to(address) as other, client.session("lstm") as session:
        unconnected.connect(proxy.address, other.address)
        unconnected.ask("attach", "a", session.id, 1)
        answers = unconnected.stream("a", XS) if streamed else (unconnected.step("a", x) for x in XS)
        _move(unconnected, (proxy, other), answers, undisturbed)


def test_a_connection_that_falls_silent_counts_as_broken(unconnected: Driver, proxy: Proxy, undisturbed: Array) -> None:
    unconnected.connect(proxy.address, timeout=60, silence=1.2)
    unconnected.session("a", "lstm")
    np.testing.assert_array_equal(unconnected.step("a", XS[0]), undisturbed[0])
    proxy.swallowing.set()
    back = threading.Timer(2.5, proxy.swallowing.clear)
    back.start()
    began = time.monotonic()
    np.testing.assert_array_equal(unconnected.step("a", XS[1]), undisturbed[1])
    assert 2.4 < time.monotonic() - began < 15
    assert proxy.connections >= 2
    back.join()
