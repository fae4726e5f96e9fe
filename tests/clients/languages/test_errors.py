"""Every failure has its own name in every language, and leaves the session as it was."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from statecell_client import Client

from tests.clients.languages.driver import Driver, Failed
from tests.conftest import Serve

X = np.linspace(-1, 1, 10).astype(np.float32)


@pytest.mark.parametrize(
    ("model", "x", "kind", "reason"),
    [
        ("lstm", X[:9], "ShapeMismatch", "SHAPE_MISMATCH"),
        ("lstm", X.reshape(1, 2, 5), "ShapeMismatch", "SHAPE_MISMATCH"),
        ("lstm", np.full(10, np.nan), "NonFiniteInput", "NON_FINITE_INPUT"),
        ("lstm", {"y": X}, "InvalidRequest", "INVALID_REQUEST"),
        ("letters", 1.5, "DtypeMismatch", "DTYPE_MISMATCH"),
        ("letters", 99, "InputRefused", "INPUT_REFUSED"),
        ("two", 1.5, "InvalidRequest", "INVALID_REQUEST"),
        ("two", {"u": [1, 2, 3]}, "InvalidRequest", "INVALID_REQUEST"),
    ],
)
def test_a_refused_step_has_its_name_and_changes_nothing(driver: Driver, model: str, x: Any, kind: str, reason: str) -> None:
    driver.session("a", model)
    before = driver.state("a")
    with pytest.raises(Failed) as unary:
        driver.step("a", x)
    with pytest.raises(Failed) as streamed:
        list(driver.stream("a", [x]))
    for failed in (unary.value, streamed.value):
        assert (failed.kind, failed.reason) == (kind, reason)
    assert driver.index("a") == 0
    for name, array in driver.state("a").items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(("model", "kind"), [("nothing", "ModelNotFound"), ("both_ways", "NotStreamable")])
def test_a_session_that_cannot_be_says_why(driver: Driver, model: str, kind: str) -> None:
    with pytest.raises(Failed, match=model) as failed:
        driver.session("a", model)
    assert failed.value.kind == kind


def test_a_deleted_session_is_not_found(driver: Driver, client: Client) -> None:
    driver.session("a", "lstm")
    client.attach(driver.ask("id", "a")).close()
    with pytest.raises(Failed) as failed:
        driver.step("a", X)
    assert failed.value.kind == "SessionNotFound"
    driver.ask("close", "a")


def test_an_expired_session_says_so(unconnected: Driver, serve: Serve, client_models: Path) -> None:
    with serve("--session-ttl", "0.5", models=client_models) as server:
        unconnected.connect(server.address)
        unconnected.session("a", "lstm")
        time.sleep(2.5)
        with pytest.raises(Failed) as failed:
            unconnected.step("a", X)
        assert failed.value.kind == "SessionExpired"


def test_somebody_elses_steps_are_noticed(driver: Driver, client: Client) -> None:
    driver.session("a", "lstm")
    other = client.attach(driver.ask("id", "a"))
    other.step(X)
    other.step(X)
    with pytest.raises(Failed, match="step_index 2") as failed:
        driver.step("a", X)
    assert failed.value.kind == "StepOutOfOrder"
    driver.state("a")
    driver.step("a", X)
    assert driver.index("a") == 3


def test_a_damaged_snapshot_is_refused(driver: Driver, tmp_path: Path) -> None:
    driver.session("a", "lstm")
    driver.ask("save", "a", tmp_path / "a")
    whole = (tmp_path / "a").read_bytes()
    for damaged in (b"not a snapshot", whole[:-1] + bytes([whole[-1] ^ 1])):
        (tmp_path / "a").write_bytes(damaged)
        with pytest.raises(Failed) as failed:
            driver.ask("restore", "b", "lstm", tmp_path / "a")
        assert failed.value.kind == "SnapshotMismatch"


def test_nobody_at_the_address_is_said_at_once(unconnected: Driver) -> None:
    unconnected.connect("127.0.0.1:1")
    began = time.monotonic()
    with pytest.raises(Failed, match=r"127\.0\.0\.1:1") as failed:
        unconnected.session("a", "lstm")
    assert (failed.value.kind, failed.value.reason) == ("ServerUnreachable", "UNAVAILABLE")
    assert time.monotonic() - began < 5
