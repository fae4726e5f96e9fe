"""The same over grpcio's own server: the fallback lives."""

import functools

import pytest

from tests.conftest import Serve
from tests.server.batching.test_stepping import (
    test_a_session_among_64_others_is_bit_identical_to_itself_alone,
    test_a_session_named_twice_takes_two_steps_in_order,
    test_steps_equal_one_run_to_the_bit_and_pytorch_closely,
    test_two_interleaved_sessions_never_mix,
)
from tests.server.engine.test_exactly_once import test_a_cancelled_step_leaves_the_state_as_it_was_or_is_answered_again
from tests.server.protocols.oip.test_stream import (
    oip,
    test_a_cancelled_stream_leaves_the_sequence_as_it_was,
    test_a_stream_is_told_that_the_server_stops,
    test_an_error_comes_in_band_and_the_stream_goes_on,
    test_one_stream_carries_sequences_of_several_models_and_stateless_calls,
)
from tests.server.test_life import (
    test_health_knows_the_server_the_service_and_each_model,
    test_reflection_lists_the_service,
    test_sigterm_finishes_what_is_in_flight_and_exits_with_0,
)

__all__ = [
    "oip",
    "test_a_cancelled_step_leaves_the_state_as_it_was_or_is_answered_again",
    "test_a_cancelled_stream_leaves_the_sequence_as_it_was",
    "test_a_session_among_64_others_is_bit_identical_to_itself_alone",
    "test_a_session_named_twice_takes_two_steps_in_order",
    "test_a_stream_is_told_that_the_server_stops",
    "test_an_error_comes_in_band_and_the_stream_goes_on",
    "test_health_knows_the_server_the_service_and_each_model",
    "test_one_stream_carries_sequences_of_several_models_and_stateless_calls",
    "test_reflection_lists_the_service",
    "test_sigterm_finishes_what_is_in_flight_and_exits_with_0",
    "test_steps_equal_one_run_to_the_bit_and_pytorch_closely",
    "test_two_interleaved_sessions_never_mix",
]


@pytest.fixture(scope="module")
def serve(serve: Serve) -> Serve:
    return functools.partial(serve, "--front", "grpcio")
