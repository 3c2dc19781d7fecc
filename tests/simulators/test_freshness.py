"""Freshness compared with a computation impression by impression."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.demo.freshness import Freshness


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_quantiles_are_those_of_the_impressions(seed: int) -> None:
    random = np.random.default_rng(seed)
    seen = np.cumsum(random.uniform(0.1, 0.5, 100))
    learned = np.maximum.accumulate(seen - random.uniform(2.0, 9.0, 100))
    freshness = Freshness()
    freshness.begin(0.0)
    for at, until in zip(seen.tolist(), learned.tolist(), strict=True):
        freshness.observe(at, until)
    found = []
    for time in np.arange(0.005, learned[-1], 0.01):
        first = next(at for at, until in zip(seen, learned, strict=True) if until >= time)
        found.append(first - time)
    for part in (0.01, 0.5, 0.99):
        assert freshness.quantile(part) == pytest.approx(np.quantile(found, part), abs=0.05)
    assert freshness.seconds == pytest.approx(learned[-1])


def test_impressions_never_served_are_not_measured() -> None:
    freshness = Freshness()
    freshness.observe(10.0, 9.0)  # before the first visit
    freshness.begin(10.0)
    freshness.observe(11.0, 9.5)
    freshness.observe(12.0, 10.0)
    assert freshness.quantile(0.5) is None
    assert freshness.as_dict() == {"p50_seconds": None, "p99_seconds": None, "of_seconds": None}
    freshness.observe(14.0, 10.5)
    assert freshness.quantile(0.0) == pytest.approx(3.5, abs=1e-5)
    assert freshness.quantile(1.0) == pytest.approx(4.0, abs=1e-5)
