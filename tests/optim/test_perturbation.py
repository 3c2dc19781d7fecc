"""Radii and norms of eq. 7 and 8 and of SAM, against loops over single numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.optim.perturbation import Perturbation

HELEN = OptimizerConfig(method="helen", perturb="both", rho=0.3, rho_dense=0.7, xi=0.25)
FIELD = torch.tensor([0, 1, 1, 2])
RATIO = torch.tensor([1.0, 0.5, 0.1, 0.0], dtype=torch.float64)


def gradient(width: int = 3) -> torch.Tensor:
    return torch.randn((4, width), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def rows(
    config: OptimizerConfig, g: torch.Tensor, share: float = 1.0, blocks: tuple[int, ...] = (3,)
) -> torch.Tensor:
    factors = Perturbation(config, blocks).row_factors(g, RATIO, FIELD, 3, 4.0, share)
    assert factors is not None
    return factors * g


def test_every_row_moves_by_its_own_radius_along_its_own_gradient() -> None:
    g = gradient()
    eps = rows(HELEN, g, share=0.5)
    for row in range(4):
        radius = 0.5 * 0.3 * max(float(RATIO[row]), 0.25)
        length = math.sqrt(sum(float(v) ** 2 for v in g[row]))
        for k in range(3):
            assert float(eps[row, k]) == pytest.approx(radius * float(g[row, k]) / length)


def test_table_norm_is_taken_over_the_field() -> None:
    g = gradient()
    eps = rows(replace(HELEN, row_norm="table"), g)
    for row, members in enumerate([[0], [1, 2], [1, 2], [3]]):
        radius = 0.3 * max(float(RATIO[row]), 0.25)
        length = math.sqrt(sum(float(v) ** 2 for member in members for v in g[member]))
        torch.testing.assert_close(eps[row], radius * g[row] / length)


def test_parts_of_a_row_have_separate_norms() -> None:
    g = gradient(4)
    eps = rows(HELEN, g, blocks=(3, 1))
    torch.testing.assert_close(eps[:, :3], rows(HELEN, g[:, :3].clone()))
    radius = 0.3 * RATIO.clamp(min=0.25)
    torch.testing.assert_close(eps[:, 3], radius * torch.sign(g[:, 3]))


def test_row_without_a_gradient_does_not_move() -> None:
    g = gradient()
    g[2] = 0.0
    eps = rows(HELEN, g)
    assert torch.equal(eps[2], torch.zeros(3, dtype=torch.float64))
    assert torch.isfinite(eps).all()
    assert Perturbation(HELEN, (3,)).dense_factor(0.0, 0.0, 1.0) == 0.0


def test_the_dense_radius_uses_the_configured_norm() -> None:
    assert Perturbation(HELEN, (3,)).dense_factor(4.0, 5.0, 1.0) == pytest.approx(0.7 / 2.0)
    everything = replace(HELEN, dense_norm="global")
    assert Perturbation(everything, (3,)).dense_factor(4.0, 5.0, 0.5) == pytest.approx(0.5 * 0.7 / 3.0)


def test_sam_has_one_radius_and_one_norm_for_everything() -> None:
    sam = replace(HELEN, method="sam", perturb="dense")
    g = gradient()
    length = math.sqrt(4.0 + float((g**2).sum()))
    torch.testing.assert_close(rows(sam, g), 0.3 * g / length)
    assert Perturbation(sam, (3,)).dense_factor(4.0, float((g**2).sum()), 1.0) == pytest.approx(0.3 / length)


@pytest.mark.parametrize(
    ("change", "dense", "embedding"),
    [
        ({"perturb": "both"}, True, True),
        ({"perturb": "embedding"}, False, True),
        ({"perturb": "dense"}, True, False),
        ({"method": "base"}, False, False),
        ({"rho": 0.0}, True, False),
        ({"rho_dense": 0.0}, False, True),
        ({"rho": 0.0, "rho_dense": 0.0}, False, False),
    ],
)
def test_only_the_configured_part_is_perturbed(change: dict[str, Any], dense: bool, embedding: bool) -> None:
    perturbation = Perturbation(replace(HELEN, **change), (3,))
    assert (perturbation.dense_factor(4.0, 5.0, 1.0) > 0.0) == dense
    factors = perturbation.row_factors(gradient(), RATIO, FIELD, 3, 4.0, 1.0)
    assert (factors is not None) == embedding
    assert perturbation.active == (dense or embedding)


def test_radii_grow_linearly_from_zero_during_the_warm_up() -> None:
    perturbation = Perturbation(replace(HELEN, warm_up_events=10), (3,))
    assert [perturbation.warm_up(n) for n in (0, 1, 5, 10, 11)] == [0.0, 0.1, 0.5, 1.0, 1.0]
    assert Perturbation(HELEN, (3,)).warm_up(0) == 1.0


def test_asam_scales_each_weight_by_its_size_and_leaves_biases() -> None:
    asam = OptimizerConfig(method="asam", rho=0.3, eta=0.2)
    w, g = (torch.tensor(v, dtype=torch.float64) for v in ([0.5, -2.0, 3.0], [1.0, -0.5, 0.25]))
    is_weight = torch.tensor([True, True, False])
    x, g_rows = gradient() * 2.0, gradient()
    c, c_rows = Perturbation(asam, (3,)).adaptive_factors(w, g, is_weight, x, g_rows, 0.5)
    t = [0.7, 2.2, 1.0] + [abs(float(v)) + 0.2 for v in x.flatten()]
    slope = [float(v) for v in (*g, *g_rows.flatten())]
    length = math.sqrt(sum((a * b) ** 2 for a, b in zip(t, slope, strict=True)))
    eps = [float(v) for v in (*(c * g), *(c_rows * g_rows).flatten())]
    for a, b, e in zip(t, slope, eps, strict=True):
        assert e == pytest.approx(0.5 * 0.3 * a * a * b / length)
    # Kwon et al., eq. 5: the scaled perturbation has the length of the radius.
    assert math.sqrt(sum((e / a) ** 2 for a, e in zip(t, eps, strict=True))) == pytest.approx(0.15)


def test_asam_without_a_gradient_moves_nothing() -> None:
    zero = torch.zeros(2, dtype=torch.float64)
    asam = Perturbation(OptimizerConfig(method="asam"), (3,))
    c, c_rows = asam.adaptive_factors(zero, zero, zero == 0.0, gradient(), 0.0 * gradient(), 1.0)
    assert not c.any()
    assert not c_rows.any()
    assert asam.adaptive
    assert asam.active
