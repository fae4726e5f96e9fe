"""Train the forecaster: `python -m statecell_examples.forecast.train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.progress import Progress
from torch import nn

from statecell_examples.forecast.model import WEIGHTS, Forecaster
from statecell_examples.forecast.series import HELD_OUT, Series
from statecell_examples.progress import training_progress


@dataclass(frozen=True)
class Config:
    """How to train. The defaults made the weights that are shipped.

    They were chosen on the five years before the held-out ones, with those years left out of the training.
    """

    steps: int = 400
    batch: int = 16
    seq_len: int = 208  # four years
    warm_up: int = 52  # weeks of a window that are not scored: from a zero state the season is still unknown
    learning_rate: float = 5e-3
    seed: int = 1958

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")
        if not 0 <= self.warm_up < self.seq_len:
            raise ValueError(f"warm_up is {self.warm_up}, expected 0 to {self.seq_len - 1} (seq_len is {self.seq_len})")


def train(config: Config, progress: Progress) -> Forecaster:
    """Least squares on random windows of the years before the held-out ones.

    A week that was not measured is passed through as the straight line between its neighbours, but its change is no
    target. One thread fixes the order of all sums: a seed gives the same weights however many cores there are.
    """
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    series = Series.read()
    change = torch.from_numpy(series.change[:-HELD_OUT])
    observed = torch.from_numpy(series.change_observed[:-HELD_OUT])
    model = Forecaster()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps + 1)

    task = progress.add_task("forecast", total=config.steps, loss="")
    for _ in range(config.steps):
        starts = torch.randint(len(change) - config.seq_len, (config.batch, 1))
        weeks = starts + torch.arange(config.seq_len)  # [batch, seq_len]
        prediction = model(change[weeks].unsqueeze(-1)).squeeze(-1)
        scored = observed[weeks + 1]
        scored[:, : config.warm_up] = False
        loss = nn.functional.mse_loss(prediction[scored], change[weeks + 1][scored])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.update(task, advance=1, loss=f"{loss.item() ** 0.5:.2f} ppm")
    return model.eval()


def held_out_rmse(model: Forecaster) -> float:
    """The error of the one-week forecasts over the held-out years, in ppm."""
    series = Series.read()
    with torch.no_grad():
        prediction = model(torch.from_numpy(series.change)[None, :-1, None])
    return series.held_out_rmse(prediction[0, -HELD_OUT:, 0].numpy())


app = typer.Typer(add_completion=False)


@app.command(epilog="Example: python -m statecell_examples.forecast.train --seed 7 --out /tmp/forecast.pt")
def main(
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = Config.steps,
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights.")] = Config.seed,
    out: Annotated[Path, typer.Option(help="Where the weights go.")] = WEIGHTS,
) -> None:
    """Train the CO2 forecaster and save its weights. Takes a few seconds."""
    with training_progress() as progress:
        model = train(Config(steps=steps, seed=seed), progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), out)
    persistence = Series.read().held_out_rmse(np.zeros(HELD_OUT, np.float32))
    print(f"{held_out_rmse(model):.3f} ppm error on the held-out years, persistence {persistence:.3f} ppm; weights in {out}")


if __name__ == "__main__":
    app()
