"""client.lstm and its kin against PyTorch."""

import numpy as np
import pytest
import torch
from statecell_client import Client, InvalidRequest, ShapeMismatch
from torch import Tensor, nn

Modules = dict[str, nn.Module]


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return randn(*shape), randn(*shape) * 2


CALLS = [
    ("lstm", (randn(7, 3, 10),)),
    ("lstm", (randn(7, 3, 10), pair(2, 3, 20))),
    ("lstm", (randn(7, 10),)),
    ("lstm", (randn(7, 10), pair(2, 20))),
    ("lstm_cell", (randn(3, 10),)),
    ("lstm_cell", (randn(3, 10), pair(3, 20))),
    ("lstm_cell", (randn(10),)),
    ("lstm_cell", (randn(10), pair(20))),
    ("gru", (randn(3, 5, 4),)),
    ("gru", (randn(3, 5, 4), randn(1, 3, 6))),
    ("gru", (randn(5, 4), randn(1, 6))),
    ("gru_cell", (randn(3, 4), randn(3, 6))),
    ("gru_cell", (randn(4),)),
    ("rnn", (randn(5, 3, 4), randn(1, 3, 6))),
    ("rnn_cell", (randn(4), randn(6))),
]


@pytest.mark.parametrize(("name", "arguments"), CALLS)
@torch.no_grad()
def test_a_remote_module_gives_what_the_local_one_gives(
    client: Client, modules: Modules, name: str, arguments: tuple[object, ...]
) -> None:
    remote = getattr(client, name)(name)
    torch.testing.assert_close(remote(*arguments), modules[name](*arguments), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_the_classic_loop_over_a_remote_cell_equals_the_local_loop(client: Client, modules: Modules) -> None:
    x, (hx, cx) = randn(2, 3, 10), pair(3, 20)
    cell, remote = modules["lstm_cell"], client.lstm_cell("lstm_cell")
    local_h, local_c = hx, cx
    for t in range(len(x)):
        local_h, local_c = cell(x[t], (local_h, local_c))
        hx, cx = remote(x[t], (hx, cx))
    torch.testing.assert_close((hx, cx), (local_h, local_c), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_bidirectional_lstm_is_called_like_any_other(client: Client, modules: Modules) -> None:
    x = randn(5, 3, 4)
    torch.testing.assert_close(client.lstm("both_ways")(x), modules["both_ways"](x), rtol=1e-5, atol=1e-6)


def test_numpy_goes_in_and_writable_numpy_comes_out(client: Client) -> None:
    out, (h_n, c_n) = client.lstm("lstm")(np.zeros((2, 3, 10), np.float32))
    assert [type(array) for array in (out, h_n, c_n)] == [np.ndarray] * 3
    assert all(array.flags.writeable for array in (out, h_n, c_n))


def test_a_module_of_another_kind_is_refused_by_its_shape(client: Client) -> None:
    with pytest.raises(InvalidRequest, match=r"'lstm_cell' cannot be called as lstm: .* no time axis"):
        client.lstm("lstm_cell")(np.zeros((2, 3, 10)))


def test_a_state_of_another_batch_is_refused(client: Client) -> None:
    with pytest.raises(ShapeMismatch, match=r"'h_0' has shape \[2, 4, 20\], expected \[2, batch=3, 20\]"):
        client.lstm("lstm")(randn(7, 3, 10), pair(2, 4, 20))


def test_a_lone_state_where_two_belong_is_refused(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="lstm takes 2 states, 3 came"):
        client.lstm("lstm")(randn(7, 3, 10), randn(3, 3, 20))
