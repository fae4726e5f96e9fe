"""When a call is sent again, without a server."""

import grpc
import pytest
from statecell.tensor import pack
from statecell_client import Retry
from statecell_client.arrays import to_array
from statecell_client.errors import (
    Draining,
    QueueFull,
    ServerUnreachable,
    ShapeMismatch,
    StatecellError,
    StepInFlight,
    StepUnsettled,
)
from statecell_client.progress import Progress
from statecell_client.retry import Attempts, Route

DOWN = ServerUnreachable("down", settled=False)


def attempts(route: Route, reached: bool = True) -> Attempts:
    return Attempts(route, Retry(), reached)


def test_an_error_that_will_not_pass_is_raised_at_once() -> None:
    with pytest.raises(ShapeMismatch):
        attempts(Route(["a"])).failed(ShapeMismatch("wrong"))


def test_pauses_double_up_to_the_longest_and_heed_the_server() -> None:
    retry = Retry(first_pause=0.1, longest_pause=0.8)
    for failures, longest in enumerate([0.1, 0.2, 0.4, 0.8, 0.8], 1):
        pauses = [retry.pause(failures, DOWN) for _ in range(50)]
        assert longest / 2 <= min(pauses) <= max(pauses) <= longest
        assert len(set(pauses)) > 1
    assert retry.pause(1, QueueFull("full", retry_seconds=3.0)) == 3.0
    assert retry.pause(100_000, DOWN) <= 0.8


def test_the_error_comes_when_the_time_is_up() -> None:
    late = Attempts(Route(["a"]), Retry(timeout=0.01, first_pause=1.0), True)
    with pytest.raises(ServerUnreachable):
        late.failed(DOWN)


def test_every_address_is_tried_at_once_before_the_first_pause() -> None:
    route = Route(["a", "b", "c"])
    tries = attempts(route)
    assert [tries.failed(DOWN), tries.failed(DOWN)] == [0.0, 0.0]
    assert tries.failed(DOWN) > 0
    assert route.address == "a"


def test_a_first_contact_that_fails_everywhere_is_not_waited_for() -> None:
    tries = attempts(Route(["a", "b"]), reached=False)
    tries.failed(DOWN)
    with pytest.raises(ServerUnreachable):
        tries.failed(DOWN)


@pytest.mark.parametrize(
    ("durable", "error", "goes_to"),
    [
        (False, DOWN, "a"),
        (True, DOWN, "b"),
        (True, Draining("stopping", code=grpc.StatusCode.UNAVAILABLE, retry_seconds=0.1), "b"),
        (True, QueueFull("full", code=grpc.StatusCode.RESOURCE_EXHAUSTED, retry_seconds=0.1), "a"),
    ],
)
def test_only_a_durable_session_moves_on_and_only_from_a_server_that_is_gone(
    durable: bool, error: StatecellError, goes_to: str
) -> None:
    route = Route(["a", "b"]).of_session(durable=durable)
    attempts(route).failed(error)
    assert route.address == goes_to


def test_an_error_is_unsettled_when_any_attempt_may_have_been_applied() -> None:
    tries = attempts(Route(["a"]))
    tries.failed(ServerUnreachable("reply lost", settled=False))
    refused = ShapeMismatch("wrong")
    with pytest.raises(ShapeMismatch):
        tries.failed(refused)
    assert not refused.settled


def test_after_an_unsettled_step_only_the_same_step_may_follow() -> None:
    one, two = ([pack("x", to_array("x", value, "float32"))] for value in (1.0, 2.0))
    progress = Progress(7)
    progress.begin(one)
    with pytest.raises(StepInFlight):
        progress.begin(one)
    progress.failed(DOWN)
    with pytest.raises(StepUnsettled, match="step_index 7"):
        progress.begin(two)
    progress.begin(one)
    progress.advanced(8)
    progress.begin(two)
    progress.failed(ShapeMismatch("wrong"))
    progress.begin(one)
    progress.failed(KeyboardInterrupt())
    progress.stands_at(9)
    progress.begin(two)
    assert progress.step_index == 9


@pytest.mark.parametrize("wrong", [{"timeout": 0}, {"first_pause": 0}, {"first_pause": 2.0, "longest_pause": 1.0}])
def test_a_retry_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected timeout > 0"):
        Retry(**wrong)
