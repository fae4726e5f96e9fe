"""Histograms of what was counted by size: no observation costs more than its place in a Counter."""

from collections.abc import Iterable, Mapping

Buckets = list[tuple[str, float]]
"""(upper bound as Prometheus writes it, so many up to there), the last one +Inf."""

FEWEST_BITS, MOST_BITS = 13, 35
"""From 8 us to 34 s, in powers of two."""
ROWS = tuple(1 << i for i in range(13))


def by_bits(counts: Mapping[int, int]) -> Buckets:
    """Durations; `counts`: by the bits that their nanoseconds take. Bounds in seconds."""
    bounds = range(FEWEST_BITS, MOST_BITS + 1)
    return _cumulated(((bits, str((1 << bits) / 1e9)) for bits in bounds), counts)


def by_rows(counts: Mapping[int, int]) -> Buckets:
    """Batches; `counts`: by their rows."""
    return _cumulated(((rows, str(float(rows))) for rows in ROWS), counts)


def _cumulated(bounds: Iterable[tuple[int, str]], counts: Mapping[int, int]) -> Buckets:
    found = sorted(dict(counts).items())
    buckets = [(shown, float(sum(count for size, count in found if size <= bound))) for bound, shown in bounds]
    return [*buckets, ("+Inf", float(sum(count for _, count in found)))]
