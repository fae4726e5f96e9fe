"""What the page remembers of the last minutes."""

import numpy as np
from statecell_server.page.history import quantiles


def test_quantiles_lie_in_the_bucket_of_what_was_counted_meanwhile() -> None:
    nanoseconds = np.random.default_rng(0).integers(1000, 10_000_000, 2000)
    old: dict[int, int] = {20: 7}
    new = dict(old)
    for n in nanoseconds.tolist():
        new[n.bit_length()] = new.get(n.bit_length(), 0) + 1
    for found, part in zip(quantiles(old, new), (0.5, 0.99), strict=True):
        exact = int(np.quantile(nanoseconds, part))
        assert 2.0 ** (exact.bit_length() - 1) <= found * 1e9 <= 2.0 ** exact.bit_length()


def test_a_second_without_runs_has_no_quantiles() -> None:
    assert np.isnan(quantiles({20: 7}, {20: 7})).all()
