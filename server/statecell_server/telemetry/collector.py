"""Collector: the figures of a server at one moment, as Prometheus' client library writes them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

from prometheus_client import PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector as Registry

from statecell_server.batching.runner import Runner
from statecell_server.telemetry.census import STATES, Census, take_census
from statecell_server.telemetry.histogram import Buckets, by_bits, by_rows
from statecell_server.telemetry.metrics import METRICS
from statecell_server.telemetry.sources import Sources

Point = tuple[Sequence[str], float | tuple[Buckets, float]]
"""Values of the labels, and the value; of a histogram, its buckets and the sum of what was observed."""


class Moment(Registry):
    """What was found, as the library's encoders take it."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Family]:
        return iter(self._families)


class Collector:
    """`moment = await Collector(sources).collect()`. Belongs to the event loop."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._process = ProcessCollector(registry=None)
        self._platform = PlatformCollector(registry=None)

    async def collect(self) -> Moment:
        """Reads all counters in one turn of the event loop, after the sessions were counted in turns of their own."""
        census = await take_census(self._sources.engine.sessions)
        points = self._points(census)
        families = [_family(name, points.get(name, [])) for name in _NAMES if name in points]
        return Moment(chain(families, self._process.collect(), self._platform.collect()))

    def _points(self, census: Census) -> dict[str, list[Point]]:
        sources = self._sources
        budget, memory = sources.engine.sessions.budget, sources.listener.memory
        points: dict[str, list[Point]] = {
            "build_info": [(list(sources.build.values()), 1)],
            "ready": [((), sources.ready())],
            "errors": [((reason,), count) for reason, count in sorted(sources.told.items())],
            "sessions_taken_over": [((), sources.engine.taken)],
            "session_memory_bytes": [((), budget.used)],
            "session_memory_limit_bytes": [((), budget.limit)],
            "connection_memory_bytes": [((), memory.used)],
            "connection_memory_limit_bytes": [((), memory.limit)],
            "connections": [(("http",), sources.http_connections())],
            "connections_cut_off": [((code,), count) for code, count in sorted(sources.listener.closed.items())],
        }
        if sources.listener.connections is not None:
            points["connections"].append((("grpc",), sources.listener.connections))
        for (model, version), outcomes in sorted(sources.requests().items()):
            for outcome, (count, ns) in zip(("success", "failure"), outcomes, strict=True):
                points.setdefault("oip_requests", []).append(((model, version, outcome), count))
                points.setdefault("oip_request_seconds", []).append(((model, version, outcome), ns / 1e9))
        for runner in sources.engine.models:
            for name, found in _model(runner, census).items():
                points.setdefault(name, []).extend(((runner.name, runner.version, *labels), value) for labels, value in found)
        store = sources.store
        if store is not None:
            points["store_call_seconds"] = [((), (by_bits(store.durations), store.busy / 1e9))]
            points["store_unanswered"] = [((), store.unanswered)]
            points["store_circuit_open"] = [((), store.open)]
        return points


def _model(runner: Runner, census: Census) -> Mapping[str, list[Point]]:
    """Of one version; the labels without its name."""
    launcher, scheduler, sessions, arena = runner.launcher, runner.scheduler, runner.sessions, runner.arena
    batches = Counter(launcher.batches)
    rows = float(sum(size * times for size, times in batches.items()))
    key = (runner.name, runner.version)
    return {
        "model_info": [((runner.runtime.name, runner.runtime.device, runner.runtime.digest), 1)],
        "requests": [((), scheduler.requests)],
        "steps": [((), scheduler.stepped)],
        "steps_failed": [((), scheduler.failed)],
        "steps_waiting": [((), scheduler.waiting)],
        "batch_rows": [((), (by_rows(batches), rows))],
        "run_seconds": [((), (by_bits(launcher.durations), sum(dict(launcher.busy).values()) / 1e9))],
        "queue_seconds": [((), (by_bits(launcher.waits), launcher.waited / 1e9))],
        "sessions": [((state,), census[*key, state]) for state in STATES],
        "sessions_durable": [((), census[*key, "durable"])],
        "sessions_created": [((), sessions.created)],
        "sessions_expired": [((), sessions.expired)],
        "sessions_evicted": [((), sessions.evicted)],
        "sessions_spilled": [((), sessions.spilled)],
        "state_bytes": [((), arena.used * arena.row_bytes)],
        "state_limit_bytes": [((), arena.budget * arena.row_bytes)],
    }


_NAMES = {metric.name.removeprefix("statecell_"): metric for metric in METRICS}


def _family(name: str, points: Iterable[Point]) -> Family:
    metric = _NAMES[name]
    family: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
    if metric.type == "histogram":
        family = HistogramMetricFamily(metric.name, metric.text, labels=metric.labels)
    else:
        kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
        family = kind(metric.name, metric.text, labels=metric.labels)
    for labels, value in points:
        if isinstance(family, HistogramMetricFamily):
            assert isinstance(value, tuple), "a histogram has buckets"
            family.add_metric(labels, value[0], value[1])
        else:
            assert not isinstance(value, tuple), "only a histogram has buckets"
            family.add_metric(labels, float(value))
    return family
