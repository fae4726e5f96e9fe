import numpy as np
import pytest
from statecell.tensor import unpack
from statecell.v1 import inference_pb2 as pb

from bench.messages import INDEX_BYTES, streamed, unary, varint, x


@pytest.mark.parametrize("value", [0, 1, 127, 128, 10_000, 2**35 - 1])
def test_padded_varint_reads_as_its_value(value: int) -> None:
    assert len(varint(value)) == INDEX_BYTES
    assert pb.StepRequest.FromString(b"\x18" + varint(value)).step_index == value


def test_step_index_at_the_end_of_a_unary_message_can_be_replaced() -> None:
    message = unary("a", x(1, 1, 4))
    request = pb.StepRequest.FromString(message.data[:-INDEX_BYTES] + varint(7))
    assert (request.session_id, request.step_index, message.indexes) == ("a", 7, 1)
    np.testing.assert_array_equal(unpack(request.inputs[0]), x(1, 1, 4))


def test_step_indexes_at_the_end_of_a_stream_message_can_be_replaced() -> None:
    message = streamed(["a", "b", "c"], x(2, 3, 4))
    assert message.indexes == 3
    request = pb.StreamStepsRequest.FromString(message.data[: -3 * INDEX_BYTES] + varint(32) * 3)
    assert (list(request.session_ids), list(request.step_indexes)) == (["a", "b", "c"], [32, 32, 32])
    np.testing.assert_array_equal(unpack(request.inputs[0]), x(2, 3, 4))
