"""What a session keeps of a step gives the step's outputs back to the bit."""

import numpy as np
import pytest
from statecell.spec import TensorSpec
from statecell_server.sessions.reply import Replies

OUTPUTS = (
    TensorSpec("y", "float32", ("seq_len", "batch", 5)),
    TensorSpec("first", "float16", ("batch", "seq_len")),
    TensorSpec("deep", "int64", (2, 3, "batch")),
)


@pytest.mark.parametrize("outputs", [OUTPUTS[:1], OUTPUTS[1:2], OUTPUTS])
@pytest.mark.parametrize("batches", [[1], [3], [1, 1, 1, 1], [2, 1, 3]])
@pytest.mark.parametrize("seq_len", [1, 4])
def test_each_session_gets_its_own_rows_back(outputs: tuple[TensorSpec, ...], batches: list[int], seq_len: int) -> None:
    rng = np.random.default_rng(0)
    whole = [(9 * rng.standard_normal(t.sized(seq_len=seq_len, batch=sum(batches)))).astype(t.dtype) for t in outputs]
    replies = Replies(outputs)
    row = 0
    for batch, data in zip(batches, replies.cut(whole, batches), strict=True):
        for tensor, array, opened in zip(outputs, whole, replies.open(data, seq_len, batch), strict=True):
            assert tensor.batch_axis is not None
            expected = array.take(range(row, row + batch), axis=tensor.batch_axis)
            assert opened.dtype == expected.dtype
            assert np.array_equal(opened, expected)
        assert len(data) == sum(array.nbytes for array in whole) * batch // sum(batches)
        row += batch


def test_an_output_without_a_batch_axis_is_whole() -> None:
    replies = Replies([TensorSpec("y", "float32", ("seq_len", 2)), TensorSpec("loss", "float32", ())])
    whole = [np.ones((3, 2), np.float32), np.array(2, np.float32)]
    (data,) = replies.cut(whole, [1])
    assert all(map(np.array_equal, replies.open(data, 3, 1), whole))
