"""The report in Markdown: targets first, then every figure."""

from collections.abc import Iterator, Sequence

from bench.growth import OPEN, STATE_BYTES, STEPPING
from bench.limits import RUNS
from bench.oip_inside import SEQUENCES
from bench.results import Results
from bench.serving import OURS, Traffic
from bench.setup import SHAPES
from bench.targets import alone, share, targets

FULL = 0.9
"""Of a core: from here on it is the load that limits."""
QUIET = 0.97
"""Of its core that ONNX Runtime alone must have had."""


def report(results: Results) -> str:
    return "\n".join(_lines(results)) + "\n"


def _lines(results: Results) -> Iterator[str]:
    yield f"# Benchmark of {results.about['date']}\n"
    yield from (f"- {name}: {value}" for name, value in results.about.items() if name != "date")
    yield "\nFigures are medians of the rounds; in a round everything was measured in turn, the server on one core, the load on"
    yield "the other.\n"
    yield from _quiet(results)
    yield from _table(
        "Targets",
        ("", "measured", "goal", "met", "possible with an empty server"),
        [
            (
                t.what,
                _unit(t.measured, t.unit),
                f"{'at least' if t.at_least else 'at most'} {_unit(t.goal, t.unit)}",
                "yes" if t.met else "**no**",
                t.possible,
            )
            for t in targets(results)
        ],
    )
    for model in SHAPES:
        if f"{model}/onnxruntime" in results.rounds:
            yield from _model(results, model)
    yield from _growth(results)
    yield from _fairness(results)
    yield from _oip(results)


def _quiet(results: Results) -> Iterator[str]:
    """Nothing that is measured beside other work means anything."""
    found = [own for model in SHAPES if (own := results.get(f"{model}/onnxruntime", "own")) is not None]
    if found and min(found) < QUIET:
        yield f"**Do not rely on these figures: other work took {1 - min(found):.0%} of the server's core.**\n"


def _model(results: Results, model: str) -> Iterator[str]:
    layers, size = SHAPES[model]
    yield f"## LSTM {model}: {layers} layer{'s' * (layers > 1)}, hidden_size {size}, float32\n"
    rows: list[Sequence[str]] = []
    for seq_len, batch in RUNS:
        took = results.get(f"{model}/onnxruntime", f"{seq_len}x{batch}")
        rows.append((f"{seq_len}", f"{batch}", _number(took), _number(alone(results, model, seq_len, batch))))
    yield from _table("ONNX Runtime alone", ("seq_len", "batch", "us a run", "steps/s"), rows, level=3)
    columns = ("sessions", "steps/s", "share of ONNX Runtime", "p50 us", "p99 us", "server us/step", "server busy", "load busy")
    yield from _table("The server", (*columns, "most steps in batches of"), [_ours(results, model, t) for t in OURS], level=3)
    rows = [
        (f"{server}: {traffic.label}", *_figures(results, f"{model}/{server}/{traffic.key}"))
        for server in ("echo python", "echo c++")
        for traffic in OURS
        if f"{model}/{server}/{traffic.key}" in results.rounds
    ]
    yield from _table("An empty gRPC server with the same messages", (columns[0], columns[1], *columns[3:]), rows, level=3)
    one, many = (results.get(f"{model}/engine", sessions) for sessions in ("1", "64"))
    yield f"The engine without gRPC: {_number(one)} steps/s with one session, {_number(many)} with 64.\n"


def _ours(results: Results, model: str, traffic: Traffic) -> Sequence[str]:
    part = share(results, model, traffic.key, traffic.seq_len, traffic.sessions)
    steps, *rest = _figures(results, f"{model}/server/{traffic.key}")
    sizes = results.histograms.get(f"{model}/server/{traffic.key}", {})
    return traffic.label, steps, "" if part is None else f"{part:.2f}", *rest, _common(sizes)


def _common(sizes: dict[int, int]) -> str:
    """The batch sizes that most steps ran in."""
    rows = {int(size): int(size) * runs for size, runs in sizes.items()}
    total = sum(rows.values())
    most = sorted(rows.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{size} ({100 * steps / total:.0f}%)" for size, steps in most)


def _figures(results: Results, key: str) -> list[str]:
    steps, p50, p99, cpu = (_number(results.get(key, name)) for name in ("steps_s", "p50_us", "p99_us", "server_us"))
    server, client = (results.get(key, name) or 0 for name in ("server_busy", "client_busy"))
    return [steps, p50, p99, cpu, f"{server:.0%}", f"{client:.0%}{' (full)' * (client > FULL)}"]


def _growth(results: Results) -> Iterator[str]:
    rows = []
    for count in OPEN:
        key = f"growth/open {count}"
        if key in results.rounds:
            names = ("refused", "failures", "unopened", "opened_s", "steps_s", "p50_us", "p99_us")
            rows.append((f"{count:,}", *(_number(results.get(key, name)) for name in names)))
    head = ("opened in a burst", "not created", "streams failed", "without a reply", "s until all had stepped")
    title = f"Open sessions, a stream each; then {STEPPING} of them step"
    yield from _table(title, (*head, "steps/s", "p50 us", "p99 us"), rows)
    if (beyond := results.get("growth/memory", "beyond_state")) is not None:
        first = _number(results.get("growth/memory", "first_beyond_state"))
        yield f"An idle session takes its state of {STATE_BYTES:,} bytes and {_number(beyond)} more; of the first {OPEN[-1]:,}, {first}.\n"
    if (ratio := results.get("growth/arena", "ratio")) is not None:
        few, many = (_number(results.get("growth/arena", f"{slots}_us")) for slots in ("1000", "100000"))
        yield f"64 steps take {few} us in an arena of 1,000 slots and {many} us in one of 100,000: {ratio:.3f}x.\n"


def _fairness(results: Results) -> Iterator[str]:
    keys = [key for key in results.rounds if key.startswith("fairness/")]
    rows = []
    for key in keys:
        steps, p50, p99, _, server, client = _figures(results, key)
        rows.append((key.removeprefix("fairness/"), steps, p50, p99, server, client))
    head = ("16 sessions by single steps", "steps/s", "p50 us", "p99 us", "server busy", "load busy")
    yield from _table("Single steps beside a client that pushes sequences of 10,000 steps", head, rows)


def _oip(results: Results) -> Iterator[str]:
    rows = []
    for key in (key for key in results.rounds if key.startswith("oip/") and not key.endswith("/inside")):
        steps, *rest = _figures(results, key)
        rows.append((key.removeprefix("oip/"), steps, _number(results.get(key, "batch")), *rest))
    head = (
        "model, front, sequences",
        "steps/s",
        "rows a run",
        "p50 us",
        "p99 us",
        "server us/step",
        "server busy",
        "load busy",
    )
    yield from _table("perf_analyzer against the Open Inference Protocol", head, rows)
    rows = [
        (model, *(_number(results.get(f"oip/{model}/inside", str(count))) for count in SEQUENCES))
        for model in SHAPES
        if f"oip/{model}/inside" in results.rounds
    ]
    counts = ("CPU us a step, sequences at once", *map(str, SEQUENCES))
    yield from _table("The same requests behind the transport: parsed, run and serialised, without gRPC", counts, rows)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], level: int = 2) -> Iterator[str]:
    if rows:
        yield f"{'#' * level} {title}\n"
        yield f"| {' | '.join(head)} |"
        yield f"|{'---|' * len(head)}"
        yield from (f"| {' | '.join(row)} |" for row in rows)
        yield ""


def _number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _unit(value: float, unit: str) -> str:
    return f"{value:.3f}{unit}" if unit in ("", "x") else f"{_number(value)} {unit}"
