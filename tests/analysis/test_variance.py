"""The variance of the logit of initial networks: measured, predicted, bounded."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from stream_ctr.analysis.variance import (
    FIELDS,
    Form,
    growth,
    measure,
    model_of,
    predicted,
    skip_variance,
    unit_inputs,
    weight_share,
)
from stream_ctr.models.build import build_network

WIDTH = 48


@pytest.mark.parametrize("form", ["plain", "vanilla", "meta_tanh"])
@pytest.mark.parametrize("depth", [1, 3])
def test_the_measured_variance_matches_the_prediction(form: Form, depth: int) -> None:
    found = measure(form, depth, WIDTH, seeds=120, samples=8)
    assert abs(found.measured - found.predicted) < 4.0 * found.error
    assert found.error < 0.2 * found.measured
    assert found.measured < found.bound


def test_skip_logits_without_tanh_grow_linearly_with_their_number() -> None:
    for depth in (1, 7, 40):
        assert predicted("vanilla", depth, 64) == pytest.approx((depth + 1) * predicted("plain", depth, 64))
    rows = [measure("vanilla", depth, WIDTH, seeds=30, samples=4) for depth in (1, 2, 4)]
    exact = [replace(row, measured=row.predicted) for row in rows]
    assert growth(exact) == pytest.approx(1.0)
    assert math.isnan(growth(exact[:1]))


def test_the_variance_of_one_skip_logit_agrees_with_drawn_numbers() -> None:
    rng = np.random.default_rng(4)
    x = np.maximum(0.0, math.sqrt(2.0) * rng.standard_normal(400_000))
    inner = 1.0 + rng.standard_normal(400_000)
    s = np.where(inner > 0.0, inner, 0.2 * inner)
    drawn = weight_share(64) * float((np.tanh(s * x) ** 2).mean())
    assert skip_variance(64, 0.2, 1.0) == pytest.approx(drawn, rel=0.01)
    assert skip_variance(64, 0.2, 1.0) < weight_share(64)


def test_one_network_is_measured_as_a_loop_over_units_does() -> None:
    depth, width, seed = 2, 5, 11
    layout = build_network(model_of("meta_tanh", depth, width), FIELDS).layout
    flat, at, p = layout.initial(seed).astype(np.float64), 0, {}
    for parameter, size in zip(layout.parameters, layout.sizes, strict=True):
        p[parameter.name] = flat[at : at + size].reshape(parameter.shape)
        at += size
    total = 0.0
    inputs = unit_inputs(3, seed)
    for event in inputs.reshape(3, -1):
        x, skips = event, 0.0
        for i in (1, 2):
            x = np.array([max(0.0, float(a @ x)) for a in p[f"tower.{i}.weight"]])
            for k in range(width):
                inner = float(p[f"sml.{i}.scale"][k] @ x) + float(p[f"sml.{i}.beta"][k])
                scale = inner if inner > 0.0 else 0.2 * inner
                skips += float(p[f"sml.{i}.weight"][k]) * math.tanh(scale * x[k])
        total += (float(p["output.weight"] @ x) + skips) ** 2
    found = measure("meta_tanh", depth, width, seeds=1, samples=3, first_seed=seed)
    assert found.measured == pytest.approx(total / 3, rel=1e-9)
    assert math.isnan(found.error)


def test_inputs_have_mean_square_one() -> None:
    x = unit_inputs(5, seed=2)
    np.testing.assert_allclose((x * x).mean(axis=(1, 2)), 1.0)
