"""Train the character language model: `python -m statecell_examples.charlm.train`."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from statecell_examples.charlm import corpus
from statecell_examples.charlm.model import WEIGHTS, CharLM, State
from statecell_examples.progress import training_progress


@dataclass(frozen=True)
class Config:
    """How to train. The defaults made the weights that are shipped."""

    steps: int = 4800  # about 15 times through the novel
    batch: int = 32
    seq_len: int = 64
    learning_rate: float = 5e-3
    seed: int = 1813

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "seq_len", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")


def train(config: Config, progress: Progress) -> CharLM:
    """Truncated backpropagation through time over `batch` parts of the novel read side by side.

    Each window starts from the state the one before ended in, so the model learns to carry a state along, which is
    how it is used. One thread fixes the order of all sums: a seed gives the same weights however many cores there are.
    """
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    model = CharLM()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps + 1)
    streams = _side_by_side(corpus.split()[0], config.batch)  # [batch, length]
    windows = (streams.size(1) - 1) // config.seq_len
    state: State | None = None

    task = progress.add_task("charlm", total=config.steps, loss="")
    for step in range(config.steps):
        start = step % windows * config.seq_len
        if start == 0:
            state = None
        x = streams[:, start : start + config.seq_len]
        target = streams[:, start + 1 : start + 1 + config.seq_len]
        logits, (h, c) = model(x, state)
        state = h.detach(), c.detach()
        loss = cross_entropy(logits.flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.update(task, advance=1, loss=f"{loss.item() / math.log(2):.2f} bits a character")
    return model.eval()


def held_out_bits(model: CharLM) -> float:
    """The cross entropy on the held-out end of the novel, in bits a character. Lower is better; guessing gives 6.2."""
    held_out = torch.from_numpy(corpus.split()[1])
    with torch.no_grad():
        logits, _ = model(held_out[None, :-1])
    return cross_entropy(logits[0], held_out[1:]).item() / math.log(2)


def _side_by_side(indices: NDArray[np.int64], batch: int) -> Tensor:
    """The text cut into `batch` equal parts, [batch, len(indices) // batch]."""
    length = len(indices) // batch
    return torch.from_numpy(indices[: batch * length].reshape(batch, length))


app = typer.Typer(add_completion=False)


@app.command(epilog="Example: python -m statecell_examples.charlm.train --seed 7 --out /tmp/charlm.pt")
def main(
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of 32 x 64 characters.")] = Config.steps,
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights.")] = Config.seed,
    out: Annotated[Path, typer.Option(help="Where the weights go.")] = WEIGHTS,
) -> None:
    """Train the character language model on Pride and Prejudice and save its weights. Takes about three minutes."""
    with training_progress() as progress:
        model = train(Config(steps=steps, seed=seed), progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), out)
    print(f"{held_out_bits(model):.3f} bits a character on the held-out end of the novel; weights in {out}")


if __name__ == "__main__":
    app()
