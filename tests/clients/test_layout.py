"""Shapes and dtypes, without a server."""

import numpy as np
import pytest
import torch
from statecell.spec import ModelSpec, StateSpec, TensorSpec
from statecell_client.arrays import Kind, to_array
from statecell_client.errors import DtypeMismatch
from statecell_client.layout import Layout

STATES = (StateSpec("h_0", "h_n", "float32", ("batch", 4)),)
Shape = tuple[int | str, ...]
LAYOUTS: dict[str, tuple[Shape, Shape]] = {
    "time first": (("seq_len", "batch", 3), ("seq_len", "batch", 5)),
    "batch first": (("batch", "seq_len", 3), ("batch", "seq_len", 5)),
    "features first": ((3, "batch", "seq_len"), (5, "seq_len", "batch")),
}


def layout(x: Shape, y: Shape, batch: int = 1) -> Layout:
    return Layout(ModelSpec("m", (TensorSpec("x", "float32", x),), (TensorSpec("y", "float32", y),), STATES), batch)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 2])
def test_steps_stacked_and_cut_apart_are_the_steps_again(name: str, batch: int) -> None:
    it = layout(*LAYOUTS[name], batch)
    x, y = it.spec.inputs[0], it.spec.outputs[0]
    one_x, one_y = _timeless(x), _timeless(y)
    steps = [it.step(np.full(one_x.sized(batch=batch), t), {}) for t in range(5)]
    stacked = it.stack(steps)
    assert stacked.arrays["x"].shape == x.sized(seq_len=5, batch=batch)
    whole = it.run(stacked.arrays["x"], {})
    pieces = it.cut(whole, 2)
    assert [piece.steps for piece in pieces] == [2, 2, 1]
    outputs = [{"y": np.full(y.sized(seq_len=piece.steps, batch=batch), i)} for i, piece in enumerate(pieces)]
    answer = it.run_answer(outputs, whole)
    assert answer.shape == y.sized(seq_len=5, batch=batch)
    answers = it.step_answers({"y": answer}, stacked)
    assert [one.shape for one in answers] == [one_y.sized(batch=batch)] * 5
    assert [one.flat[0] for one in answers] == [0, 0, 1, 1, 2]


def _timeless(tensor: TensorSpec) -> TensorSpec:
    return TensorSpec(tensor.name, tensor.dtype, tuple(size for size in tensor.shape if size != "seq_len"))


def test_what_cannot_come_apart_is_sent_whole() -> None:
    last_only = layout(("seq_len", "batch", 3), ("batch", 5))
    whole = last_only.run(np.zeros((9, 1, 3)), {})
    assert last_only.cut(whole, 2) == [whole]
    assert not last_only.stacks


def test_an_input_without_a_time_axis_goes_along_as_it_is() -> None:
    speaker = TensorSpec("speaker", "int64", ("batch",))
    x = TensorSpec("x", "float32", ("seq_len", "batch", 3))
    it = Layout(ModelSpec("m", (x, speaker), (TensorSpec("y", "float32", ("seq_len", "batch", 5)),), STATES), 1)
    step = it.step(None, {"x": [1, 2, 3], "speaker": 7})
    assert {name: array.shape for name, array in step.arrays.items()} == {"x": (1, 1, 3), "speaker": (1,)}
    assert not it.stacks


def test_a_model_without_a_batch_axis_takes_its_step_as_it_is() -> None:
    states = (StateSpec("h_0", "h_n", "float32", (4,)),)
    spec = ModelSpec("m", (TensorSpec("x", "float32", ("seq_len", 3)),), (TensorSpec("y", "float32", ("seq_len", 5)),), states)
    step = Layout(spec).step([1, 2, 3], {})
    assert step.arrays["x"].shape == (1, 3)
    assert Layout(spec).step_answers({"y": np.ones((1, 5), np.float32)}, step)[0].shape == (5,)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (1.5, "float32"),
        (3, "float32"),
        (3, "int64"),
        (True, "int64"),
        (255, "uint8"),
        (np.float64(1), "float16"),
        (np.int64(9), "int8"),
    ],
)
def test_what_converts_safely_is_converted(value: object, dtype: str) -> None:
    array = to_array("x", value, dtype)
    assert array.dtype == dtype
    assert array == value


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(1.5, "int64"), (256, "uint8"), (-1, "uint8"), (1j, "float32"), ("1", "int64"), (None, "float32")],
)
def test_what_does_not_convert_safely_is_refused_by_name(value: object, dtype: str) -> None:
    with pytest.raises(DtypeMismatch, match=rf"'x' has dtype .*, expected {dtype}") as caught:
        to_array("x", value, dtype)
    assert caught.value.metadata["field"] == "x"


def test_answers_are_torch_tensors_where_an_input_was_one() -> None:
    assert isinstance(Kind.of([np.zeros(1), torch.zeros(1)]).give(np.ones(2)), torch.Tensor)
    assert isinstance(Kind.of([np.zeros(1), 1.0]).give(np.ones(2)), np.ndarray)
