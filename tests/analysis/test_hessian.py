"""Top eigenvalues of every row's own block against finite differences, correlations against slow sums."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stream_ctr.analysis.hessian import Curvature, FrequencyCorrelations, curvature, default_field, pearson
from stream_ctr.analysis.surface import Surface
from stream_ctr.config.model import ModelConfig
from stream_ctr.models.build import build_network
from tests.support.analysis_networks import trained_surface
from tests.support.learner_events import MULTI, SINGLE, Schema

SMALL = ModelConfig(embedding=3, embedding_scale=0.7, hidden=(6, 5), sml=False)
CASES = {
    "deepfm": (replace(SMALL, backbone="deepfm"), SINGLE),
    "dnn with SML": (replace(SMALL, sml=True), SINGLE),
    "autoint with scalar SML": (replace(SMALL, backbone="autoint", sml=True, scale="scalar"), SINGLE),
    "mean of several values": (replace(SMALL, sml=True), MULTI),
    "sum of several values": (replace(SMALL, pooling="sum", sml=True), MULTI),
}
STEP = 1e-6
"""Small enough that no unit turns on or off within it, in these networks."""


def mean_loss(surface: Surface, rows: NDArray[np.int64], label: NDArray[np.float64]) -> float:
    """The mean log loss, each event by itself."""
    total = 0.0
    for z, y in zip(surface.logits(rows).tolist(), label.tolist(), strict=True):
        p = 1.0 / (1.0 + math.exp(-z))
        total -= math.log(p) if y else math.log1p(-p)
    return total / len(label)


def gradient_at(
    surface: Surface, rows: NDArray[np.int64], label: NDArray[np.float64], row: int
) -> NDArray[np.float64]:
    """Gradient [d] of the mean log loss at one embedding, by automatic differentiation of the whole table."""
    kept, leaf = surface.rows, surface.rows.clone().requires_grad_()
    surface.rows = leaf
    p, y = torch.sigmoid(surface.logit(surface.pooled(rows))), torch.from_numpy(label)
    loss = -(y * p.log() + (1.0 - y) * (1.0 - p).log()).mean()
    (gradient,) = torch.autograd.grad(loss, leaf)
    surface.rows = kept
    return np.asarray(gradient[row, : surface.embedding].numpy())


def by_differences(
    surface: Surface, rows: NDArray[np.int64], label: NDArray[np.float64], row: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gradient [d] and Hessian [d, d] of the mean loss at one row, by central differences."""
    d = surface.embedding
    gradient, hessian = np.zeros(d), np.zeros((d, d))
    for i in range(d):
        losses, gradients = [], []
        for sign in (1.0, -1.0):
            kept = float(surface.rows[row, i])
            surface.rows[row, i] += sign * STEP
            losses.append(mean_loss(surface, rows, label))
            gradients.append(gradient_at(surface, rows, label, row))
            surface.rows[row, i] = kept
        gradient[i] = (losses[0] - losses[1]) / (2 * STEP)
        hessian[i] = (gradients[0] - gradients[1]) / (2 * STEP)
    return gradient, hessian


@pytest.mark.parametrize("name", CASES)
def test_eigenvalues_and_gradients_agree_with_finite_differences(name: str) -> None:
    model, schema = CASES[name]
    surface, rows, label = trained_surface(model, schema)
    found = curvature(surface, rows, label, field=1)
    assert len(found.row) >= 4
    for place in np.argsort(found.count)[-2:]:  # the most frequent ones are the least flat
        gradient, hessian = by_differences(surface, rows, label, int(found.row[place]))
        np.testing.assert_allclose(hessian, hessian.T, atol=1e-7)
        top = np.linalg.eigvalsh((hessian + hessian.T) / 2)[-1]
        assert abs(top) > 1e-5
        assert found.eigenvalue[place] == pytest.approx(top, abs=1e-7)
        assert found.gradient[place] == pytest.approx(np.linalg.norm(gradient), abs=1e-7)


@pytest.mark.parametrize("schema", [SINGLE, MULTI], ids=["single", "multi"])
def test_every_feature_of_the_field_is_counted_once_and_no_default_row(schema: Schema) -> None:
    surface, rows, label = trained_surface(replace(SMALL, sml=True), schema)
    found = curvature(surface, rows, label, field=1)
    slots = [slot for slot, field in enumerate(schema.slot_field) if field == 1]
    expected: dict[int, int] = {}
    for event in rows.tolist():
        for slot in slots:
            if event[slot] >= schema.fields:
                expected[event[slot]] = expected.get(event[slot], 0) + 1
    assert dict(zip(found.row.tolist(), found.count.tolist(), strict=True)) == expected
    assert found.events == len(rows)


def test_chunks_of_events_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    surface, rows, label = trained_surface(replace(SMALL, sml=True), MULTI)
    whole = curvature(surface, rows, label, field=1)
    monkeypatch.setattr("stream_ctr.analysis.hessian.CHUNK", 7)
    parts = curvature(surface, rows, label, field=1)
    np.testing.assert_allclose(parts.eigenvalue, whole.eigenvalue, rtol=1e-12, atol=1e-18)
    np.testing.assert_allclose(parts.gradient, whole.gradient, rtol=1e-12, atol=1e-18)


def test_the_surface_has_the_logits_of_its_network() -> None:
    surface, rows, _ = trained_surface(replace(SMALL, sml=True), SINGLE)
    network = build_network(replace(SMALL, sml=True), SINGLE.fields)
    expected = network.logit(surface.dense, surface.pooled(rows)).numpy()
    np.testing.assert_allclose(surface.logits(rows), expected, rtol=1e-12)


def slow_r(x: list[float], y: list[float]) -> float:
    """Pearson's r, sum by sum."""
    n = len(x)
    mean_x, mean_y = sum(x) / n, sum(y) / n
    product = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    squares = (sum((a - mean_x) ** 2 for a in x), sum((b - mean_y) ** 2 for b in y))
    return product / math.sqrt(squares[0] * squares[1])


def test_correlations_and_their_normalisation_agree_with_slow_sums() -> None:
    rng = np.random.default_rng(2)
    count = rng.integers(1, 50, 20)
    found = Curvature(1000, np.arange(20), count, rng.random(20) * count, rng.random(20))
    result = FrequencyCorrelations.of(found)
    n = [float(each) for each in count]
    raw, gradient = found.eigenvalue.tolist(), found.gradient.tolist()
    assert result.eigenvalue.r == pytest.approx(slow_r(raw, n))
    assert result.gradient.r == pytest.approx(slow_r(gradient, n))
    per_event = [value * 1000 / own for value, own in zip(raw, n, strict=True)]
    assert result.eigenvalue_per_event.r == pytest.approx(slow_r(per_event, n))
    per_event = [value * 1000 / own for value, own in zip(gradient, n, strict=True)]
    assert result.gradient_per_event.r == pytest.approx(slow_r(per_event, n))
    z, reach = math.atanh(result.eigenvalue.r), 1.959964 / math.sqrt(20 - 3)
    assert result.eigenvalue.low == pytest.approx(math.tanh(z - reach), abs=1e-6)
    assert result.eigenvalue.high == pytest.approx(math.tanh(z + reach), abs=1e-6)


def test_sharpness_that_is_frequency_alone_has_no_correlation_per_event() -> None:
    count = np.arange(1, 9)
    found = Curvature(100, np.arange(8), count, 0.3 * count / 100, 0.5 * count / 100)
    result = FrequencyCorrelations.of(found)
    assert result.eigenvalue.r == pytest.approx(1.0)
    assert math.isnan(result.eigenvalue_per_event.r)
    assert math.isnan(pearson(np.ones(2), np.arange(2.0)).r)


def test_the_default_field_has_the_most_frequent_features() -> None:
    fields = 3
    rows = np.array([[3 + event % 2, 10 + event % 4, 100 + event] for event in range(12)], np.int64)
    slots = np.arange(3)
    assert default_field(rows, slots, fields, [0, 1, 2], minimum=2) == 1
    assert default_field(rows, slots, fields, [0, 2], minimum=2) == 0
    assert default_field(rows, slots, fields, [0, 1, 2], minimum=1) == 2
