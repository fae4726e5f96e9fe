"""Random recurrent programs: what is exported steps in the server as the module itself does, or the export was refused.

They loop over cells or are one step; their states are arguments, kept in self, or hidden in forward; on the way they are
clamped, normalised, reset, gated, decayed, or left alone; what they return comes in any order; some begin with what an id says,
some run over another axis than time inside.
"""

import copy
import itertools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from statecell_export import ExportError, Report, export
from statecell_server.config import Config
from statecell_server.engine.engine import Engine
from torch import Tensor, nn

PROGRAMS = 150
BINS, SIZE, HIDDEN = 3, 4, 5
STEPS, BATCH = 9, 2
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Plan:
    """What one program is made of."""

    cell: str  # "LSTM", "GRU" or "own"
    change: str  # what happens to the states on their way
    where: str  # "before" the cell, or "after" it
    style: str  # "argument", "self" or "loop"
    order: str  # in which an "argument" program returns its results
    inside: str  # what its features are: "linear", or a "recurrence" over bins
    flag: bool  # a done flag comes with each input
    conditioned: bool  # an id says where it begins


class Program(nn.Module):
    """The parts, and one step of them."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.features = nn.Linear(SIZE, HIDDEN)
        self.bins = nn.GRU(SIZE, HIDDEN, batch_first=True)
        self.norm, self.gate = nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.who = nn.Embedding(4, HIDDEN)
        self.cell: nn.Module = {"LSTM": nn.LSTMCell, "GRU": nn.GRUCell, "own": nn.RNNCell}[plan.cell](HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, 2)
        self.kept: tuple[Tensor, ...] | None = None
        with torch.no_grad():  # such as training leaves them
            for parameter in self.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))

    @property
    def count(self) -> int:
        return 2 if self.plan.cell == "LSTM" else 1

    def seen(self, x: Tensor) -> Tensor:
        """x: [batch, size], or [batch, bins, size] where a recurrence runs over the bins."""
        if self.plan.inside == "recurrence":
            y: Tensor = self.bins(x)[0]
            return y[:, -1]
        features: Tensor = self.features(x)
        return features

    def changed(self, states: tuple[Tensor, ...], done: Tensor | None) -> tuple[Tensor, ...]:
        if done is not None:
            states = tuple(torch.where(done, torch.zeros_like(s), s) for s in states)
        changes: dict[str, Callable[[Tensor], Tensor]] = {
            "nothing": lambda s: s,
            "clamp": lambda s: s.clamp(-0.1, 0.1),
            "wide clamp": lambda s: s.clamp(-50, 50),
            "norm": self.norm,
            "decay": lambda s: 0.9 * s,
            "gate": lambda s: s * torch.sigmoid(self.gate(s)),
        }
        return tuple(map(changes[self.plan.change], states))

    def once(self, x: Tensor, states: tuple[Tensor, ...], done: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        if self.plan.where == "before":
            states = self.changed(states, done)
        if self.plan.cell == "own":
            states = (torch.tanh(self.gate(states[0]) + self.seen(x)),)
        else:
            after = self.cell(self.seen(x), states if self.count == 2 else states[0])
            states = after if self.count == 2 else (after,)
        if self.plan.where == "after":
            states = self.changed(states, done)
        y: Tensor = self.head(states[0])
        return y, states

    def begin(self, x: Tensor, who: Tensor | None) -> tuple[Tensor, ...]:
        zeros = tuple(x.new_zeros(x.shape[0], HIDDEN) for _ in range(self.count))
        return zeros if who is None else tuple(self.who(who) for _ in zeros)


class OneArgument(Program):
    def forward(self, x: Tensor, h: Tensor, done: Tensor | None = None) -> Any:
        y, (h,) = self.once(x, (h,), done)
        return {"y first": (y, h), "states first": (h, y), "dict": {"h": h, "y": y}}[self.plan.order]


class TwoArguments(Program):
    def forward(self, x: Tensor, h: Tensor, c: Tensor, done: Tensor | None = None) -> Any:
        y, (h, c) = self.once(x, (h, c), done)
        return {"y first": (y, c, h), "states first": (h, c, y), "dict": {"c": c, "y": y, "h": h}}[self.plan.order]


class InSelf(Program):
    def forward(self, x: Tensor, done: Tensor | None = None) -> Tensor:
        y, self.kept = self.once(x, self.begin(x, None) if self.kept is None else self.kept, done)
        return y


class Loop(Program):
    def forward(self, x: Tensor, done: Tensor | None = None, who: Tensor | None = None) -> Tensor:
        states, ys = self.begin(x, who), []
        for t in range(x.shape[1]):
            y, states = self.once(x[:, t], states, None if done is None else done[:, t])
            ys.append(y)
        return torch.stack(ys, 1)


def plans() -> list[Plan]:
    """All that make sense, in an order of chance."""
    found = []
    for cell, change, where, style, order, inside, flag, conditioned in itertools.product(
        ("LSTM", "GRU", "own"),
        ("nothing", "clamp", "wide clamp", "norm", "decay", "gate"),
        ("before", "after"),
        ("argument", "self", "loop"),
        ("y first", "states first", "dict"),
        ("linear", "recurrence"),
        (False, True),
        (False, True),
    ):
        if (style != "argument" and order != "dict") or (style != "loop" and conditioned):
            continue
        found.append(Plan(cell, change, where, style, order, inside, flag, conditioned))
    order_of_chance = torch.randperm(len(found), generator=torch.Generator().manual_seed(8)).tolist()
    return [found[i] for i in order_of_chance[:PROGRAMS]]


def made(plan: Plan) -> Program:
    if plan.style == "argument":
        return (TwoArguments if plan.cell == "LSTM" else OneArgument)(plan).eval()
    return (InSelf if plan.style == "self" else Loop)(plan).eval()


def lines(plan: Plan) -> list[str]:
    time = "seq_len," if plan.style == "loop" else ""
    bins = f"{BINS}," if plan.inside == "recurrence" else ""
    found = [f"x:float32[batch,{time}{bins}{SIZE}]"]
    if plan.style == "argument":
        found += [f"{name}:float32[batch,{HIDDEN}]" for name in ("h", "c")[: 2 if plan.cell == "LSTM" else 1]]
    if plan.flag:
        found.append(f"done:bool[batch,{time}1]")
    if plan.conditioned:
        found.append("who:int64[batch]")
    return found


def inputs(plan: Plan, generator: torch.Generator) -> list[dict[str, Tensor]]:
    """One call after the other; of a loop, one for each time step."""
    bins = (BINS,) if plan.inside == "recurrence" else ()
    who = torch.randint(4, (BATCH,), generator=generator)
    feeds = []
    for t in range(STEPS):
        feed = {"x": torch.randn(BATCH, *bins, SIZE, generator=generator) * (8 if t == 4 else 1)}
        if plan.flag:
            feed["done"] = torch.rand(BATCH, 1, generator=generator) < 0.3
        if plan.style == "loop":
            feed = {name: value.unsqueeze(1) for name, value in feed.items()}
        if plan.conditioned:
            feed["who"] = who
        feeds.append(feed)
    return feeds


@torch.no_grad()
def truth(module: Program, feeds: list[dict[str, Tensor]]) -> list[np.ndarray[Any, Any]]:
    """What the module gives, called as its user calls it."""
    module, plan = copy.deepcopy(module), module.plan
    if plan.style == "loop":
        joined = {n: feeds[0][n] if n == "who" else torch.cat([feed[n] for feed in feeds], 1) for n in feeds[0]}
        whole: Tensor = module(**joined)
        return [whole[:, t : t + 1].numpy() for t in range(STEPS)]
    names = ("h", "c")[: module.count] if plan.style == "argument" else ()
    states = {name: torch.zeros(BATCH, HIDDEN) for name in names}
    results = []
    for feed in feeds:
        result = module(**feed, **states)
        if plan.style == "self":
            results.append(result.numpy())
            continue
        if plan.order == "dict":
            y, states = result["y"], {name: result[name] for name in names}
        elif plan.order == "states first":
            y, states = result[-1], dict(zip(names, result[:-1], strict=True))
        else:
            y, states = result[0], dict(zip(names, reversed(result[1:]), strict=True))
        results.append(y.numpy())
    return results


async def stepped(engine: Engine, report: Report, feeds: list[dict[str, Tensor]]) -> list[np.ndarray[Any, Any]]:
    session = await engine.lifecycle.create(report.spec.name, batch=BATCH)
    results = []
    for t, feed in enumerate(feeds):
        outputs, _ = await engine.steps.step(session.id, {name: value.numpy() for name, value in feed.items()}, t)
        (y,) = outputs.values()
        results.append(y)
    return results


def exported_as_asked(module: Program, name: str, models: Path) -> Report:
    """With the line that the first refusal asks for, where it asks for one."""
    try:
        return export(module, lines(module.plan), name=name, out=models)
    except ExportError as error:
        if "say so, as in states=" not in str(error):
            raise
    places: tuple[str, ...] = {"y first": ("h:2", "c:1"), "states first": ("h:0", "c:1"), "dict": ("h:h", "c:c")}[
        module.plan.order
    ]
    if module.count == 1:
        places = ({"y first": "h:1", "states first": "h:0", "dict": "h:h"}[module.plan.order],)
    return export(module, lines(module.plan), name=name, out=models, states=places)


def reason(error: ExportError) -> str:
    """Without names and numbers."""
    text = re.sub(r"'[^']*'|\([^)]*\)|[\d.e-]+\d", "…", str(error).split("; ")[0])
    return text[:110]


async def test_random_programs_step_as_they_are_or_are_refused(tmp_path: Path) -> None:
    models, refused, whole = tmp_path / "models", Counter[str](), Counter[str]()
    models.mkdir()
    exported: list[tuple[Program, Report]] = []
    for number, plan in enumerate(plans()):
        torch.manual_seed(number)
        module = made(plan)
        try:
            report = exported_as_asked(module, f"program{number}", models)
        except ExportError as error:
            refused[f"{plan.style}: {reason(error)}"] += 1
            continue
        if report.spec.streamable:
            exported.append((module, report))
        else:
            whole[f"{plan.style}: {report.spec.reason[:110]}"] += 1
    engine = Engine(Config(models=models, trial_load="never"))
    await engine.start()
    wrong = []
    for module, report in exported:
        feeds = inputs(module.plan, torch.Generator().manual_seed(1))
        for got, want in zip(await stepped(engine, report, feeds), truth(module, feeds), strict=True):
            if got.shape != want.shape or np.abs(got - want).max() > TOLERANCE * max(1, np.abs(want).max()):
                wrong.append(module.plan)
                break
    await engine.stop()
    print(f"\n{len(exported)} of {PROGRAMS} programs are stepped")
    for kind, counts in (("refused", refused), ("served whole", whole)):
        for why, count in counts.most_common():
            print(f"{count:4} {kind}: {why}")
    assert not wrong
    assert len(exported) > PROGRAMS // 2
