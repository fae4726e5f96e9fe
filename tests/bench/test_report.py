from pathlib import Path

import pytest

from bench.plots import draw
from bench.report import report
from bench.results import Measurement, Results
from bench.targets import alone, possible, share, targets

SERVED = {"steps_s": 40_000.0, "p50_us": 190.0, "p90_us": 200.0, "p99_us": 300.0, "server_us": 20.0, "server_busy": 0.9}
ALONE = {"1x1": 40.0, "1x16": 100.0, "1x64": 320.0, "1x256": 1280.0, "32x16": 2000.0, "own": 1.0}


def results() -> Results:
    """One model; 200,000 steps a second alone at batch 64."""
    found = Results({"date": "2026-01-02"})
    for key, values in (
        ("1x128/onnxruntime", ALONE),
        ("1x128/engine", {"1": 20_000.0, "64": 80_000.0}),
        ("1x128/echo python/stream 1", {**SERVED, "p50_us": 100.0, "client_busy": 0.2}),
        ("1x128/echo python/stream 64", {**SERVED, "server_us": 5.0, "client_busy": 0.95}),
        ("1x128/server/stream 1", {**SERVED, "client_busy": 0.2}),
        ("1x128/server/stream 64", {**SERVED, "client_busy": 0.2}),
    ):
        found.add(Measurement(key, lambda values=values: values))  # type: ignore[misc]
    found.histograms["1x128/server/stream 64"] = {1: 64, 64: 9}
    return found


def test_median_of_the_rounds_is_the_figure() -> None:
    found = Results({})
    for value in (1.0, 9.0, 2.0):
        found.add(Measurement("key", lambda value=value: {"steps_s": value}))  # type: ignore[misc]
    assert found.get("key", "steps_s") == 2.0
    assert found.get("other", "steps_s") is None


def test_shares_are_of_the_bare_runtime_at_the_same_batch() -> None:
    assert alone(results(), "1x128", 1, 64) == 200_000
    assert share(results(), "1x128", "stream 64", 1, 64) == 0.2
    # An empty server of 5 us a step beside 5 us a step of the bare runtime.
    assert possible(results(), "1x128", "echo python", "stream 64", 64) == pytest.approx(0.5)


def test_only_what_was_measured_is_compared_to_its_target() -> None:
    found = {target.what: target for target in targets(results())}
    assert len(found) == 3
    stream = found["1x128: 64 sessions, a stream each: share of ONNX Runtime at batch 64"]
    assert (stream.measured, stream.met, stream.possible) == (0.2, True, "0.50 (echo python)")
    gain = next(target for what, target in found.items() if "batching gain" in what)
    assert gain.measured == pytest.approx(4 / 8)
    assert not gain.met
    one = next(target for what, target in found.items() if "one session" in what)
    assert (one.measured, one.met) == (50.0, False)


def test_saved_results_give_the_same_report(tmp_path: Path) -> None:
    results().save(tmp_path / "results.json")
    text = report(Results.load(tmp_path / "results.json"))
    assert text == report(results())
    assert "| 64 sessions, stream | 40,000 | 0.20 | 190 | 300 | 20 | 90% | 20% | 64 (90%), 1 (10%) |" in text
    assert "95% (full)" in text


def test_report_of_a_busy_machine_warns() -> None:
    quiet, busy = results(), results()
    busy.rounds["1x128/onnxruntime"][0] = {**ALONE, "own": 0.6}
    assert "Do not rely" not in report(quiet)
    assert "Do not rely on these figures: other work took 40% of the server's core." in report(busy)


def test_plots_are_drawn_of_what_was_measured(tmp_path: Path) -> None:
    paths = draw(results(), tmp_path / "2026-01-02")
    assert [path.name for path in paths] == [f"2026-01-02-{name}.png" for name in ("throughput", "latency", "share", "batches")]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert draw(Results({}), tmp_path / "empty") == []
