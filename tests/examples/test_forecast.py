from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress
from statecell_examples.forecast import HELD_OUT, Series, load
from statecell_examples.forecast.model import WEIGHTS
from statecell_examples.forecast.train import Config, app, held_out_rmse, train
from typer.testing import CliRunner

SILENT = Progress(disable=True)


def test_shipped_forecaster_has_a_quarter_less_error_than_persistence_on_the_held_out_years() -> None:
    persistence = Series.read().held_out_rmse(np.zeros(HELD_OUT, np.float32))
    assert held_out_rmse(load()) < 0.76 * persistence


def test_a_seed_gives_the_same_weights_whatever_the_number_of_threads() -> None:
    config = Config(steps=3)
    torch.set_num_threads(2)
    first = train(config, SILENT).state_dict()
    torch.set_num_threads(1)
    again = train(config, SILENT).state_dict()
    other = train(Config(steps=3, seed=7), SILENT).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["linear.weight"], other["linear.weight"])


def test_the_full_training_beats_persistence_from_another_seed_too() -> None:
    persistence = Series.read().held_out_rmse(np.zeros(HELD_OUT, np.float32))
    assert held_out_rmse(train(Config(seed=7), SILENT)) < 0.85 * persistence


def test_the_command_saves_weights_of_the_shipped_shapes(tmp_path: Path) -> None:
    out = tmp_path / "new" / "weights.pt"
    result = CliRunner().invoke(app, ["--steps", "2", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "persistence 0.496 ppm" in result.output
    trained, shipped = (torch.load(path, weights_only=True) for path in (out, WEIGHTS))
    assert {name: value.shape for name, value in trained.items()} == {name: value.shape for name, value in shipped.items()}


def test_series_is_weekly_and_its_gaps_are_straight_lines() -> None:
    series = Series.read()
    assert series.dates[0] == np.datetime64("1958-03-29")
    assert series.dates[-1] == np.datetime64("2001-12-29")
    assert set(np.diff(series.dates)) == {np.timedelta64(7, "D")}
    assert (~series.observed).sum() == 59
    gap = int(np.flatnonzero(series.dates == np.datetime64("1964-01-25"))[0])  # the first of 18 weeks
    assert not series.observed[gap : gap + 18].any()
    np.testing.assert_allclose(np.diff(series.ppm[gap - 1 : gap + 19], 2), 0, atol=1e-4)


def test_changes_at_a_gap_are_not_scored() -> None:
    series = Series.read()
    gap = int(np.flatnonzero(~series.observed)[0])
    assert not series.change_observed[gap - 1 : gap + 1].any()
    assert series.change_observed[gap - 2]


def test_a_perfect_prediction_has_no_error_and_a_wrong_number_of_them_is_refused() -> None:
    series = Series.read()
    assert series.held_out_rmse(series.change[-HELD_OUT:]) == 0
    with pytest.raises(ValueError, match=r"\[7\], expected \[260\]"):
        series.held_out_rmse(np.zeros(7, np.float32))


@pytest.mark.parametrize(("fields", "message"), [({"steps": 0}, "steps is 0"), ({"warm_up": 208}, "expected 0 to 207")])
def test_a_training_of_nothing_is_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**fields)
