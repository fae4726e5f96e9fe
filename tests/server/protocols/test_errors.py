"""Every error has a stable reason and a code."""

import inspect

from google.rpc import code_pb2
from statecell_server import errors
from statecell_server.errors import StatecellError
from statecell_server.protocols import status
from statecell_server.protocols.v1.wire import write_error

ERRORS = [
    e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, StatecellError) and e is not StatecellError
]


def test_every_error_is_in_the_table_of_codes_and_nothing_else_is() -> None:
    assert set(status.CODES) == set(ERRORS)
    assert set(status.CODES.values()) <= set(code_pb2.Code.values())


def test_reasons_are_distinct_and_in_capitals() -> None:
    reasons = [error.reason for error in ERRORS]
    assert len(set(reasons)) == len(reasons)
    assert all(reason == reason.upper() for reason in reasons)


def test_errors_that_may_pass_travel_with_retry_info() -> None:
    with_retry = {e.reason for e in ERRORS if len(status.write_status(e("why")).details) == 2}
    assert {"QUEUE_FULL", "STATE_BUDGET_EXCEEDED", "DRAINING"} <= with_retry
    assert with_retry == {e.reason for e in ERRORS if write_error(0, "s", e("why")).HasField("retry_delay")}


def test_every_error_says_whose_fault_it_is() -> None:
    for error in ERRORS:
        assert error.__doc__
        assert len(error.__doc__.split()) > 5
