"""The plots: throughput against sessions, latency percentiles, share of the bare runtime, batch sizes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullLocator

from bench.results import Results
from bench.serving import OURS
from bench.setup import SHAPES
from bench.targets import MESSAGE_SHARE, STREAM_SHARE, alone, possible, share

LIMIT, OURS_COLOR, ECHO, SECOND, THIRD = "#444444", "#0b6fb8", "#b0b0b0", "#e07b00", "#2a9d5c"
SESSIONS = (1, 16, 64, 256)
plt.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "figure.dpi": 150,
    }
)


def draw(results: Results, stem: Path) -> list[Path]:
    """Writes <stem>-<plot>.png for the models that were measured."""
    models = [model for model in SHAPES if f"{model}/onnxruntime" in results.rounds]
    paths = []
    for name, plot in (("throughput", _throughput), ("latency", _latency), ("share", _share), ("batches", _batches)):
        if models:
            paths.append(stem.with_name(f"{stem.name}-{name}.png"))
            figure = plot(results, models)
            figure.savefig(paths[-1])
            plt.close(figure)
    return paths


def _panels(models: Sequence[str], title: str, height: float = 3.6) -> tuple[Any, Sequence[Any]]:
    size = (max(7.0, 3.6 * len(models)), height)
    figure, axes = plt.subplots(1, len(models), figsize=size, squeeze=False, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    for ax, model in zip(axes[0], models, strict=True):
        ax.set_title(f"LSTM {model}", loc="left", fontsize=9)
    return figure, axes[0]


def _logarithmic(ax: Any) -> None:
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(SESSIONS, [str(s) for s in SESSIONS])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(_short))
    ax.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    ax.set_xlabel("sessions")


def _short(value: float, _: object) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def _points(results: Results, prefix: str, value: str) -> tuple[list[int], list[float]]:
    """Over the numbers of sessions that were measured."""
    found = {s: results.get(f"{prefix} {s}", value) for s in SESSIONS}
    return [s for s, v in found.items() if v], [v for v in found.values() if v]


def _throughput(results: Results, models: Sequence[str]) -> Any:
    figure, axes = _panels(models, "Throughput, one core: steps a second")
    for ax, model in zip(axes, models, strict=True):
        bare = [alone(results, model, 1, sessions) or 0 for sessions in SESSIONS]
        ax.plot(SESSIONS, bare, "o-", color=LIMIT, label="ONNX Runtime alone")
        ax.plot(*_points(results, f"{model}/echo c++/stream", "steps_s"), "v:", color=ECHO, label="empty echo, C++")
        ax.plot(*_points(results, f"{model}/echo python/stream", "steps_s"), "^:", color="#808080", label="empty echo, Python")
        ax.plot(*_points(results, f"{model}/server/message ahead", "steps_s"), "D", color=THIRD, label="64 sessions a message")
        ax.plot(*_points(results, f"{model}/server/stream", "steps_s"), "o-", color=OURS_COLOR, label="a stream each")
        ax.plot(*_points(results, f"{model}/server/unary", "steps_s"), "s--", color=SECOND, label="unary calls")
        _logarithmic(ax)
    _legend(figure, axes)
    return figure


def _latency(results: Results, models: Sequence[str]) -> Any:
    figure, axes = _panels(models, "Latency of a step, a stream each, closed loop: microseconds")
    for ax, model in zip(axes, models, strict=True):
        for percent, style, strength in ((50, "o-", 1.0), (90, "o--", 0.7), (99, "o:", 0.5)):
            points = _points(results, f"{model}/server/stream", f"p{percent}_us")
            ax.plot(*points, style, color=OURS_COLOR, alpha=strength, label=f"p{percent}")
        runs = [results.get(f"{model}/onnxruntime", f"1x{sessions}") or 0 for sessions in SESSIONS]
        ax.plot(SESSIONS, runs, "o-", color=LIMIT, label="ONNX Runtime alone, one run")
        echo = _points(results, f"{model}/echo python/stream", "p50_us")
        ax.plot(*echo, "^:", color="#808080", label="empty echo, Python, p50")
        _logarithmic(ax)
    _legend(figure, axes)
    return figure


def _share(results: Results, models: Sequence[str]) -> Any:
    traffics = [t for t in OURS if any(f"{model}/server/{t.key}" in results.rounds for model in models)]
    figure, axes = _panels(models, "Share of ONNX Runtime alone at a batch of all sessions")
    for ax, model in zip(axes, models, strict=True):
        for row, traffic in enumerate(reversed(traffics)):
            part = share(results, model, traffic.key, traffic.seq_len, traffic.sessions) or 0
            goal = {"stream 64": STREAM_SHARE, "message ahead 64": MESSAGE_SHARE}.get(traffic.key, {}).get(model)
            ax.barh(row, part, height=0.62, color=OURS_COLOR if goal is None or part >= goal else SECOND)
            if goal is not None:
                ax.plot([goal, goal], [row - 0.4, row + 0.4], color="black", linewidth=2, label="target")
                left = possible(results, model, "echo c++", traffic.key.replace(" ahead", ""), 64)
                if left is not None:
                    ax.plot(
                        [left, left], [row - 0.4, row + 0.4], ":", color=LIMIT, label="what an empty C++ server would leave"
                    )
            inside = part > 0.5
            place = {"x": part - 0.02, "ha": "right", "color": "white"} if inside else {"x": part + 0.02, "ha": "left"}
            ax.text(y=row, s=f"{part:.2f}", va="center", fontsize=8, **place)
        ax.set_xlim(0, 1.15)
        names = [t.label for t in reversed(traffics)] if ax is axes[0] else [""] * len(traffics)
        ax.set_yticks(range(len(traffics)), names)
        ax.grid(axis="y", visible=False)
    _legend(figure, axes)
    return figure


def _batches(results: Results, models: Sequence[str]) -> Any:
    figure, axes = _panels(models, "Steps by the size of the batch that they ran in, a stream each", height=3.0)
    for ax, model in zip(axes, models, strict=True):
        for sessions, color in ((16, THIRD), (64, OURS_COLOR), (256, SECOND)):
            sizes = results.histograms.get(f"{model}/server/stream {sessions}", {})
            rows = sorted((int(size), int(size) * runs) for size, runs in sizes.items())
            total = sum(steps for _, steps in rows) or 1
            reached, at, height = 0.0, [0], [0.0]
            for size, steps in rows:
                reached += steps / total
                at.append(size)
                height.append(reached)
            ax.step([*at, sessions], [*height, 1.0], where="post", color=color, label=f"{sessions} sessions")
        ax.set_xscale("symlog", base=2, linthresh=1)
        ax.set_xticks((1, 4, 16, 64, 256), ("1", "4", "16", "64", "256"))
        ax.set_xlim(0.8, 300)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlabel("batch size")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes[0].set_ylabel("steps in batches up to this size")
    _legend(figure, axes)
    return figure


def _legend(figure: Any, axes: Sequence[Any]) -> None:
    handles, labels = axes[0].get_legend_handles_labels()
    entries = dict(zip(labels, handles, strict=True))  # each label once
    figure.legend(entries.values(), entries.keys(), loc="outside lower left", ncols=max(2 * len(axes), 3), frameon=False)
