"""Targets: what the figures are meant to be, as ratios within one run, and whether they are."""

from collections.abc import Iterator
from dataclasses import dataclass

from bench.results import Results

Goals = dict[str, float]
STREAM_SHARE: Goals = {"1x128": 0.20, "1x512": 0.60, "2x1024": 0.80}
MESSAGE_SHARE: Goals = {"1x128": 0.75, "1x512": 0.90, "2x1024": 0.95}
GAIN: Goals = {"1x128": 0.9, "1x512": 0.9, "2x1024": 0.9}
EXTRA_US: Goals = {"1x128": 25, "1x512": 25}
EXTRA_SHARE: Goals = {"2x1024": 0.05}
BEYOND_STATE = 1024.0
ARENA = 1.02
FAIRNESS = 3.0
FAILURES = 0.0
OIP_STEPS: Goals = {"1x128": 10_000, "1x512": 8_000, "2x1024": 1_600}


@dataclass(frozen=True)
class Target:
    """One goal and what was measured."""

    what: str
    measured: float
    goal: float
    at_least: bool = False
    unit: str = ""
    possible: str = ""  # with an empty server in place of ours

    @property
    def met(self) -> bool:
        return self.measured >= self.goal if self.at_least else self.measured <= self.goal


def alone(results: Results, model: str, seq_len: int, batch: int) -> float | None:
    """Steps a second of ONNX Runtime alone."""
    took = results.get(f"{model}/onnxruntime", f"{seq_len}x{batch}")
    return 1e6 * seq_len * batch / took if took else None


def share(results: Results, model: str, traffic: str, seq_len: int, batch: int) -> float | None:
    """The server's steps a second over those of ONNX Runtime alone."""
    ours, limit = results.get(f"{model}/server/{traffic}", "steps_s"), alone(results, model, seq_len, batch)
    return ours / limit if ours and limit else None


def possible(results: Results, model: str, echo: str, traffic: str, batch: int) -> float | None:
    """The share that an empty server would leave to ONNX Runtime on the core that they share."""
    cost, limit = results.get(f"{model}/{echo}/{traffic}", "server_us"), alone(results, model, 1, batch)
    return 1 / (1 + limit * cost / 1e6) if cost and limit else None


def targets(results: Results) -> list[Target]:
    """Those that were measured."""
    return [*_shares(results), *_engine(results), *_one_session(results), *_rest(results), *_oip(results)]


def _shares(results: Results) -> Iterator[Target]:
    for what, traffic, echoed, goals in (
        ("64 sessions, a stream each", "stream 64", "stream 64", STREAM_SHARE),
        ("64 sessions a message, sent ahead", "message ahead 64", "message 64", MESSAGE_SHARE),
    ):
        for model, goal in goals.items():
            if (measured := share(results, model, traffic, 1, 64)) is not None:
                left = {echo: possible(results, model, echo, echoed, 64) for echo in ("echo python", "echo c++")}
                text = ", ".join(f"{value:.2f} ({echo})" for echo, value in left.items() if value is not None)
                title = f"{model}: {what}: share of ONNX Runtime at batch 64"
                yield Target(title, measured, goal, at_least=True, possible=text)


def _engine(results: Results) -> Iterator[Target]:
    for model, goal in GAIN.items():
        one, many = (results.get(f"{model}/engine", sessions) for sessions in ("1", "64"))
        alone_one, alone_many = (alone(results, model, 1, batch) for batch in (1, 64))
        if one and many and alone_one and alone_many:
            gain = (many / one) / (alone_many / alone_one)
            yield Target(f"{model}: batching gain of the engine, 64 sessions over 1: share of ONNX Runtime's", gain, goal, True)


def _one_session(results: Results) -> Iterator[Target]:
    for model in (*EXTRA_US, *EXTRA_SHARE):
        ours, echo = (results.get(f"{model}/{server}/stream 1", "p50_us") for server in ("server", "echo python"))
        run = results.get(f"{model}/onnxruntime", "1x1")
        if ours is None or echo is None or run is None:
            continue
        what = f"{model}: one session, p50 over the empty echo plus the bare run"
        if model in EXTRA_US:
            yield Target(what, ours - echo - run, EXTRA_US[model], unit="us")
        else:
            yield Target(what, 100 * (ours / (echo + run) - 1), 100 * EXTRA_SHARE[model], unit="%")


def _rest(results: Results) -> Iterator[Target]:
    for key, what in (("growth/open 1000", "1,000"), ("growth/open 10000", "10,000")):
        failed = [results.get(key, name) for name in ("refused", "failures", "unopened")]
        if None not in failed:
            yield Target(f"{what} sessions and streams opened in a burst: failures", sum(f or 0 for f in failed), FAILURES)
    for key, value, target in (
        ("growth/memory", "beyond_state", ("memory of an idle session beyond its state", BEYOND_STATE, "bytes")),
        ("growth/arena", "ratio", ("a step with 100,000 slots over one with 1,000", ARENA, "x")),
    ):
        if (measured := results.get(key, value)) is not None:
            what, goal, unit = target
            yield Target(what, measured, goal, unit=unit)
    for model in STREAM_SHARE:
        beside, quiet = (results.get(f"fairness/{model}/{name}", "p99_us") for name in ("beside sequences", "alone"))
        if beside and quiet:
            yield Target(
                f"{model}: p99 of single steps beside pushed sequences over without", beside / quiet, FAIRNESS, unit="x"
            )


def _oip(results: Results) -> Iterator[Target]:
    for model, goal in OIP_STEPS.items():
        if (measured := results.get(f"oip/{model}/unary 64", "steps_s")) is not None:
            what = f"{model}: perf_analyzer, unary, 64 sequences"
            yield Target(what, measured, goal, at_least=True, unit="steps/s")
