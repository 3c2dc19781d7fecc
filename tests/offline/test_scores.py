"""Exact metrics against slow transcriptions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ctr.offline.scores import exact_auc, score

PAIRS = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.integers(0, 1)), min_size=1)


def slow_auc(pairs: list[tuple[float, int]]) -> float:
    """Share of correctly ranked (click, non-click) pairs; ties count one half."""
    clicks = [p for p, y in pairs if y]
    misses = [p for p, y in pairs if not y]
    won = sum((a > b) + 0.5 * (a == b) for a in clicks for b in misses)
    return won / (len(clicks) * len(misses)) if clicks and misses else math.nan


@given(PAIRS)
def test_the_auc_is_the_share_of_correctly_ranked_pairs(pairs: list[tuple[float, int]]) -> None:
    p, y = np.array([p for p, _ in pairs], np.float32), np.array([y for _, y in pairs], np.uint8)
    found = exact_auc(p, y)
    assert found == pytest.approx(slow_auc(pairs), abs=1e-12, nan_ok=True)


def test_log_loss_entropy_and_calibration() -> None:
    p, y = [0.9, 0.2, 0.6, 0.0, 1.0], [1, 0, 0, 1, 1]
    found = score(np.array(p, np.float32), np.array(y, np.uint8))
    clipped = [min(max(float(np.float32(each)), 1e-7), 1 - 1e-7) for each in p]
    loss = -sum(math.log(c) if hit else math.log1p(-c) for c, hit in zip(clipped, y, strict=True)) / 5
    entropy = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
    assert (found.events, found.clicks) == (5, 3)
    assert found.log_loss == pytest.approx(loss, rel=1e-9)
    assert found.ne == pytest.approx(loss / entropy, rel=1e-9)
    assert found.calibration == pytest.approx(sum(p) / 3, rel=1e-6)


def test_undefined_metrics_are_null() -> None:
    no_click = score(np.array([0.1, 0.2], np.float32), np.zeros(2, np.uint8)).as_dict()
    assert no_click["auc"] is None
    assert no_click["calibration"] is None
    assert math.isnan(exact_auc(np.array([math.nan, 0.2], np.float32), np.array([0, 1], np.uint8)))
