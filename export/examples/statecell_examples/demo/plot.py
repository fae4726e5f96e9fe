"""The picture of the forecast: observed against predicted over the held-out years."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from statecell_examples.forecast import HELD_OUT, Series


def plot(series: Series, predicted: NDArray[np.float32], path: Path) -> None:
    """Save the one-week forecasts of the last HELD_OUT changes, ppm, [HELD_OUT], with their errors, as a PNG."""
    dates, observed = series.dates[-HELD_OUT:], series.ppm[-HELD_OUT:]
    before = series.ppm[-HELD_OUT - 1 : -1]  # the week each forecast was made in
    rmse, persistence = series.held_out_rmse(predicted), series.held_out_rmse(np.zeros_like(predicted))

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    figure.suptitle("Weekly CO₂ at Mauna Loa, forecast a week ahead on years the model has not seen", fontsize=13)
    level, error = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])

    level.plot(dates, observed, "o", color="#4c4c4c", markersize=3.2, label="observed")
    level.plot(dates, before + predicted, color="#d95f02", linewidth=1.4, label="predicted the week before")
    level.set_ylabel("CO₂ (ppm)")
    level.legend(frameon=False, loc="upper left")

    error.axhline(0, color="#4c4c4c", linewidth=0.8)
    error.plot(dates, before - observed, color="#a6a6a6", linewidth=1.0, label=f"persistence, RMSE {persistence:.2f} ppm")
    error.plot(dates, before + predicted - observed, color="#d95f02", linewidth=1.0, label=f"forecast, RMSE {rmse:.2f} ppm")
    error.set_ylabel("predicted - observed (ppm)")
    error.set_xlabel("week")
    error.legend(frameon=False, loc="upper left", ncols=2)
    limit = 1.5 * float(np.abs(before - observed).max())
    error.set_ylim(-limit, limit)

    figure.align_ylabels()
    for axes in (level, error):
        axes.grid(color="#e6e6e6")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(dates[0], dates[-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
