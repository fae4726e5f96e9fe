"""What a server's HTTP port says at /metrics, in the text format of Prometheus."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

Key = tuple[str, str]
"""A model and its version."""
SAMPLE = re.compile(r"(statecell_\w+)\{(.*)\} (\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
ESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}
Labels = frozenset[tuple[str, str]]
Look = Mapping[Key, Mapping[tuple[str, Labels], float]]
"""By model; then by the sample's name without `statecell_`, and its other labels."""


class Figures(NamedTuple):
    """Of one version. Times in seconds; NaN where nothing ran between the two looks."""

    steps: float  # a second, as the next
    failed: float
    rows: float  # of a run on average
    run: tuple[float, float]  # median, 99th percentile
    queue: tuple[float, float]
    waiting: float
    live: float  # sessions: with their states in the arena
    spilled: float
    state_bytes: float
    state_limit_bytes: float


def read(text: str) -> Look:
    """The samples that are about a model."""
    found: dict[Key, dict[tuple[str, Labels], float]] = {}
    for name, labels, value in SAMPLE.findall(text):
        said = {label: re.sub(r"\\.", _unescape, text) for label, text in LABEL.findall(labels)}
        if "model" in said and "version" in said:
            key = said.pop("model"), said.pop("version")
            found.setdefault(key, {})[name.removeprefix("statecell_"), frozenset(said.items())] = float(value)
    return found


def _unescape(match: re.Match[str]) -> str:
    return ESCAPED.get(match[0], match[0])


def between(before: Look, now: Look, seconds: float) -> dict[Key, Figures]:
    """What each version did meanwhile. One that was not there before, or began anew, is told from its beginning."""
    found = {}
    for key, new in sorted(now.items()):
        steps = ("steps_total", frozenset[tuple[str, str]]())
        old = before.get(key, {})
        if old.get(steps, 0) > new.get(steps, 0):
            old = {}
        did = {sample: value - old.get(sample, 0) for sample, value in new.items()}
        runs = _of(did, "batch_rows_count")
        found[key] = Figures(
            _of(did, "steps_total") / seconds,
            _of(did, "steps_failed_total") / seconds,
            _of(did, "batch_rows_sum") / runs if runs else math.nan,
            (quantile(did, "run_seconds", 0.5), quantile(did, "run_seconds", 0.99)),
            (quantile(did, "queue_seconds", 0.5), quantile(did, "queue_seconds", 0.99)),
            _of(new, "steps_waiting"),
            _of(new, "sessions", state="idle") + _of(new, "sessions", state="stepping"),
            _of(new, "sessions", state="spilled"),
            _of(new, "state_bytes"),
            _of(new, "state_limit_bytes"),
        )
    return found


def _of(samples: Mapping[tuple[str, Labels], float], name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def quantile(samples: Mapping[tuple[str, Labels], float], name: str, part: float) -> float:
    """As histogram_quantile of Prometheus: spread evenly within a bucket; what is beyond the last bound counts as that."""
    buckets = sorted((float(dict(labels)["le"]), count) for (n, labels), count in samples.items() if n == f"{name}_bucket")
    if not buckets or not buckets[-1][1]:
        return math.nan
    rank, low, below = part * buckets[-1][1], 0.0, 0.0
    for bound, count in buckets:
        if count >= rank and count > below:
            return low if math.isinf(bound) else low + (bound - low) * (rank - below) / (count - below)
        low, below = bound, count
    return low
