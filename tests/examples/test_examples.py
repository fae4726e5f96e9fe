import pytest
import torch
from statecell_examples import EXAMPLES


@pytest.mark.parametrize(
    ("name", "x_shape", "y_shape"),
    [
        ("charlm", [2, 7], [2, 7, 75]),
        ("forecast", [2, 7, 1], [2, 7, 1]),
        ("lstm", [5, 3, 10], [5, 3, 20]),
        ("lstm_cell", [3, 10], [3, 20]),
    ],
)
def test_example_takes_its_input_in_eval_mode(name: str, x_shape: list[int], y_shape: list[int]) -> None:
    module, x = EXAMPLES[name]()
    assert not module.training
    with torch.no_grad():
        result = module(x)
    y = result if isinstance(result, torch.Tensor) else result[0]
    assert (list(x.shape), list(y.shape)) == (x_shape, y_shape)


def test_every_example_is_tested_above() -> None:
    assert sorted(EXAMPLES) == ["charlm", "forecast", "lstm", "lstm_cell"]


@pytest.mark.parametrize("name", ["lstm", "lstm_cell"])
def test_bare_modules_have_the_same_weights_each_time_and_leave_the_seed_alone(name: str) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first, second = EXAMPLES[name]()[0].state_dict(), EXAMPLES[name]()[0].state_dict()
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(first[key], second[key]) for key in first)
