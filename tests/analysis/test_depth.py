"""Inactive and always-on units and similarity of events, on a constructed network and against slow loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from stream_ctr.analysis.depth import activity, mean_cosine
from stream_ctr.analysis.surface import Surface
from stream_ctr.config.model import ModelConfig
from stream_ctr.models.build import build_network
from stream_ctr.state.state import State


def test_units_of_a_constructed_network_are_counted() -> None:
    """One field of width 1: unit 0 is always on and 3 dead by their biases, 1 and 2 follow the sign."""
    model = ModelConfig(embedding=1, hidden=(4, 2), sml=False)
    layout = build_network(model, 1).layout
    values = {
        "tower.1.weight": [1.0, 1.0, -1.0, 1.0],
        "tower.1.bias": [9.0, 0.0, 0.0, -9.0],
        "tower.2.weight": [-1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0],
        "tower.2.bias": [0.0, 0.0],
        "output.weight": [1.0, 1.0],
        "output.bias": [0.0],
    }
    dense = np.concatenate([np.array(values[each.name], np.float32) for each in layout.parameters])
    table = np.array([[0.0], [1.0], [-2.0]], np.float32)
    surface = Surface(
        model, np.zeros(1, np.int64), 1, State({"dense.weight": dense, "rows.weight": table}, {})
    )
    first, second = (activity(x) for x in surface.hidden(np.array([[1], [2]])))
    assert (first.dead, first.always_on, first.silent) == (0.25, 0.25, 0.0)
    assert (second.dead, second.always_on, second.silent) == (0.5, 0.5, 0.0)
    # Outputs of the first layer: (10, 1, 0, 0) and (7, 0, 2, 0); of the second: (0, 1) and (0, 2).
    assert first.cosine == pytest.approx(70.0 / math.sqrt(101.0 * 53.0))
    assert second.cosine == pytest.approx(1.0)


def slow_cosine(x: NDArray[np.float64]) -> float:
    values = [
        float(a @ b) / (math.sqrt(a @ a) * math.sqrt(b @ b))
        for i, a in enumerate(x)
        for j, b in enumerate(x)
        if i != j
    ]
    return sum(values) / len(values)


def test_mean_cosine_agrees_with_a_loop_over_all_pairs() -> None:
    x = np.random.default_rng(1).random((9, 4))
    assert mean_cosine(x) == pytest.approx(slow_cosine(x), rel=1e-12)
    assert activity(1e-200 * x).cosine == pytest.approx(slow_cosine(x), rel=1e-12)


def test_silent_events_have_no_direction() -> None:
    x = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    found = activity(x)
    assert found.silent == 0.5
    assert found.cosine == pytest.approx(math.sqrt(0.5))
    nothing = activity(np.zeros((3, 2)))
    assert (nothing.dead, nothing.always_on, nothing.silent) == (1.0, 0.0, 1.0)
    assert math.isnan(nothing.cosine)
