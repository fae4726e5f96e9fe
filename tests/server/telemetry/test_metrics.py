"""What /metrics says, against what was done."""

import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from statecell_client import Client, NonFiniteInput
from statecell_server.protocols.status import CODES
from statecell_server.telemetry.histogram import by_bits, by_rows
from statecell_server.telemetry.metrics import METRICS

from tests.conftest import LIMIT, Serve, Server
from tests.server.caller import Caller
from tests.server.oip_caller import OipCaller

ROOT = Path(__file__).parents[3]
X = np.zeros((1, 1, 10), np.float32)
Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(server: Server) -> Figures:
    """By sample and labels."""
    with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=LIMIT) as answer:
        text = answer.read().decode()
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def value(figures: Figures, name: str, **labels: str) -> float:
    return figures[name, frozenset(labels.items())]


def lstm(figures: Figures, name: str, **labels: str) -> float:
    return value(figures, name, model="lstm", version="1", **labels)


@pytest.fixture(scope="module")
def server(serve: Serve, lstm_only: Path) -> Iterator[Server]:
    with serve("--http-port", "0", "--store", "memory", models=lstm_only) as running:
        yield running


def test_steps_requests_and_runs_are_counted(server: Server) -> None:
    before = scrape(server)
    with Client(server.address) as client, client.session("lstm") as session:
        for _ in range(20):
            session.step(X[0, 0])
        during = scrape(server)
        client.infer("lstm", x=X)
    after = scrape(server)
    for name in ("requests_total", "steps_total", "run_seconds_count", "batch_rows_count", "queue_seconds_count"):
        assert lstm(during, f"statecell_{name}") - lstm(before, f"statecell_{name}") == 20
        assert lstm(after, f"statecell_{name}") - lstm(during, f"statecell_{name}") == 1
    assert lstm(after, "statecell_batch_rows_sum") - lstm(before, "statecell_batch_rows_sum") == 21
    assert lstm(after, "statecell_run_seconds_sum") > lstm(before, "statecell_run_seconds_sum")
    assert lstm(after, "statecell_queue_seconds_sum") > lstm(before, "statecell_queue_seconds_sum")
    assert lstm(during, "statecell_sessions", state="idle") - lstm(before, "statecell_sessions", state="idle") == 1
    assert lstm(during, "statecell_state_bytes") - lstm(before, "statecell_state_bytes") == 2 * 2 * 20 * 4
    assert lstm(during, "statecell_sessions_created_total") - lstm(before, "statecell_sessions_created_total") == 1
    assert lstm(after, "statecell_sessions", state="idle") == lstm(before, "statecell_sessions", state="idle")
    assert lstm(after, "statecell_steps_waiting") == 0


def test_durable_sessions_and_the_store_are_counted(server: Server) -> None:
    before = scrape(server)
    with Client(server.address) as client, client.session("lstm", durable=True) as session:
        session.step(X[0, 0])
        after = scrape(server)
    assert lstm(after, "statecell_sessions_durable") - lstm(before, "statecell_sessions_durable") == 1
    calls = value(after, "statecell_store_call_seconds_count") - value(before, "statecell_store_call_seconds_count")
    assert calls >= 2, "one for the session and one for the step"
    assert value(after, "statecell_store_circuit_open") == 0


def test_errors_are_counted_by_their_reasons_on_every_protocol(server: Server) -> None:
    before = scrape(server)
    with pytest.raises(grpc.RpcError):
        Caller(server.address).infer("lstm", X[..., :3])
    with Client(server.address) as client, client.session("lstm") as session, pytest.raises(NonFiniteInput):
        list(session.stream([np.full(10, np.nan, np.float32)]))
    with pytest.raises(grpc.RpcError):
        OipCaller(server.address).infer("lstm", X, sequence_id=5)
    after = scrape(server)
    for reason in ("SHAPE_MISMATCH", "NON_FINITE_INPUT", "SESSION_NOT_FOUND"):
        name = "statecell_errors_total"
        assert value(after, name, reason=reason) - value(before, name, reason=reason) == 1, reason
    assert {dict(labels)["reason"] for name, labels in after if name == "statecell_errors_total"} == {e.reason for e in CODES}
    assert lstm(after, "statecell_steps_failed_total") - lstm(before, "statecell_steps_failed_total") == 1
    assert lstm(after, "statecell_oip_requests_total", outcome="failure") >= 1


def test_expired_and_spilled_sessions_are_counted(serve: Serve, lstm_only: Path) -> None:
    flags = ["--session-ttl", "2", "--state-memory", "64KiB", "--max-batch", "1"]
    with serve("--http-port", "0", *flags, models=lstm_only) as server:
        with Client(server.address) as client:
            sessions = [client.session("lstm") for _ in range(300)]
            for session in sessions:
                session.step(X[0, 0])
            figures = scrape(server)
            assert lstm(figures, "statecell_sessions", state="spilled") > 0
            assert lstm(figures, "statecell_sessions_spilled_total") > 0
            assert lstm(figures, "statecell_state_bytes") > lstm(figures, "statecell_state_limit_bytes") / 2
        end = time.monotonic() + LIMIT
        while lstm(scrape(server), "statecell_sessions_expired_total") < 300:
            assert time.monotonic() < end
            time.sleep(0.2)


def test_the_table_in_the_documentation_is_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| (.*) \|$", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    expected = [(m.shown, m.type, ", ".join(f"`{label}`" for label in m.labels), m.text) for m in METRICS]
    assert rows == expected


def test_all_metrics_are_there_and_no_others(server: Server) -> None:
    with Client(server.address) as client, client.session("lstm") as session:
        session.step(X[0, 0])
    OipCaller(server.address).infer("lstm", X)
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    asked = urllib.request.Request(f"http://{server.http}/metrics", headers=accept)
    with urllib.request.urlopen(asked, timeout=LIMIT) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        families = {family.name: family for family in openmetrics(answer.read().decode())}  # type: ignore[no-untyped-call]
    own = {name: family for name, family in families.items() if name.startswith("statecell_")}
    assert set(own) == {metric.name for metric in METRICS}
    for metric in METRICS:
        assert own[metric.name].type == metric.type
        for sample in own[metric.name].samples:
            assert set(sample.labels) - {"le"} == set(metric.labels), metric.name
    assert {name.partition("_")[0] for name in families} == {"statecell", "process", "python"}


def test_durations_are_in_the_bucket_that_holds_them() -> None:
    nanoseconds = [1, 8192, 1_000_000, 3_000_000_000, 10**12]
    buckets = by_bits({n.bit_length(): 1 for n in nanoseconds})
    for bound, count in buckets:
        assert count == sum(n / 1e9 < float(bound) for n in nanoseconds), bound
    assert by_rows({1: 3, 5: 2, 10**6: 1})[-1] == ("+Inf", 6.0)
    assert dict(by_rows({1: 3, 5: 2}))["4.0"] == 3
