"""The network against its equations: finite differences, stop-gradient, and invariants of skip logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from stream_ctr.config.model import ModelConfig
from stream_ctr.models.build import Network, build_network
from stream_ctr.models.layers import pool
from stream_ctr.models.layout import Weights
from stream_ctr.models.sml import SkipMetaLogit

CONFIG = ModelConfig(embedding=3, hidden=(7, 5))
FIELDS = 4
SCALES = pytest.mark.parametrize("scale", ["unit", "scalar"])


def weights(network: Network, seed: int, deviation: float = 0.5) -> Weights:
    """Float64 leaves with every parameter away from zero."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(network.layout.size, generator=generator, dtype=torch.float64) * deviation
    return network.layout.leaves(flat)


def inputs(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def frozen_logit(network: Network, p: Weights, x: Tensor, scales: list[Tensor] | None) -> Tensor:
    """z of one event with the scales s_i as given constants, or computed if none are given."""
    z_0, outputs = network.backbone.forward(p, x)
    z = z_0.sum()
    for i, x_i in enumerate(outputs, start=1):
        s = scales[i - 1] if scales is not None else scale_of(network, p, i, x_i)
        z = z + (p[f"sml.{i}.weight"] * torch.tanh(s * x_i)).sum()
    return z


def scale_of(network: Network, p: Weights, i: int, x_i: Tensor) -> Tensor:
    assert network.sml is not None
    inner = p[f"sml.{i}.scale"] @ x_i + p[f"sml.{i}.beta"]
    return torch.where(inner > 0, inner, network.sml.slope * inner)


def numeric_gradient(function: Callable[[], Tensor], leaf: Tensor) -> Tensor:
    """Central differences of a scalar function with respect to a leaf, changed in place."""
    gradient = torch.zeros_like(leaf)
    flat, out = leaf.detach().view(-1), gradient.view(-1)
    for k in range(len(flat)):
        kept, values = float(flat[k]), []
        for step in (1e-6, -1e-6):
            flat[k] = kept + step
            values.append(float(function().detach()))
        flat[k] = kept
        out[k] = (values[0] - values[1]) / 2e-6
    return gradient


@pytest.mark.parametrize("hidden", [(), (7, 5)])
def test_backbone_gradients_are_finite_differences(hidden: tuple[int, ...]) -> None:
    network = build_network(replace(CONFIG, sml=False, hidden=hidden), FIELDS)
    p, x = weights(network, 1), inputs(2, FIELDS, 3).requires_grad_()
    leaves = [*p.values(), x]
    gradients = torch.autograd.grad(network.logit(p, x).sum(), leaves)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        expected = numeric_gradient(lambda: network.logit(p, x).sum(), leaf)
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)


@SCALES
def test_skip_gradients_are_finite_differences_with_the_scales_held_still(scale: str) -> None:
    network = build_network(replace(CONFIG, scale="unit" if scale == "unit" else "scalar"), FIELDS)
    p, x = weights(network, 3), inputs(4, FIELDS, 3).requires_grad_()
    _, outputs = network.backbone.forward(p, x)
    scales = [scale_of(network, p, i, x_i).detach() for i, x_i in enumerate(outputs, start=1)]
    kept = [x_i.detach() for x_i in outputs]

    def own_scales() -> Tensor:
        """z as a function of w_i and beta_i, with fixed layer outputs."""
        total = torch.zeros((), dtype=torch.float64)
        for i, x_i in enumerate(kept, start=1):
            total = total + (p[f"sml.{i}.weight"] * torch.tanh(scale_of(network, p, i, x_i) * x_i)).sum()
        return total

    names = [*p, "x"]
    leaves = [*p.values(), x]
    gradients = torch.autograd.grad(network.logit(p, x).sum(), leaves)
    for name, leaf, gradient in zip(names, leaves, gradients, strict=True):
        own = name.endswith((".scale", ".beta"))
        expected = numeric_gradient(own_scales if own else lambda: frozen_logit(network, p, x, scales), leaf)
        assert torch.allclose(gradient, expected, rtol=1e-6, atol=1e-7), name


def test_gradient_at_the_input_has_no_scale_factor() -> None:
    # one layer, by hand: dF/dx_k = W_k (1 - tanh^2(s_k x_k)) s_k, and nothing through s
    sml = SkipMetaLogit((3,), "unit", 0.2, 1.0)
    p = {
        "sml.1.scale": inputs(5, 3, 3),
        "sml.1.beta": inputs(6, 3),
        "sml.1.weight": inputs(7, 3),
    }
    x = inputs(8, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(sml.skip_logit(p, 1, x), x)
    inner = p["sml.1.scale"] @ x.detach() + p["sml.1.beta"]
    s = torch.where(inner > 0, inner, 0.2 * inner)
    expected = p["sml.1.weight"] * (1 - torch.tanh(s * x.detach()) ** 2) * s
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=0)
    full = numeric_gradient(lambda: sml.skip_logit(p, 1, x), x)
    assert (full - expected).abs().max() > 1e-3  # a gradient through s would give another value


@pytest.mark.parametrize("events", [1, 6])
def test_skip_weight_zero_is_the_base_network_bit_for_bit(events: int) -> None:
    with_skips = build_network(CONFIG, FIELDS)
    base = build_network(replace(CONFIG, sml=False), FIELDS)
    flat = torch.from_numpy(with_skips.layout.initial(1)) + 0.1
    for name, view in with_skips.layout.views(flat).items():
        if name in {"sml.1.weight", "sml.2.weight"}:
            view.zero_()
    shape = (FIELDS, 3) if events == 1 else (events, FIELDS, 3)
    x = inputs(9, *shape).float().requires_grad_()
    z = [with_skips.logit(with_skips.layout.views(flat), x), base.logit(with_skips.layout.views(flat), x)]
    assert torch.equal(z[0], z[1])
    gradients = [torch.autograd.grad(each.sum(), x)[0] for each in z]
    assert torch.equal(gradients[0], gradients[1])


@SCALES
@pytest.mark.parametrize("sml", [True, False])
def test_a_batch_equals_its_events_one_by_one(scale: str, sml: bool) -> None:
    network = build_network(replace(CONFIG, scale="unit" if scale == "unit" else "scalar", sml=sml), FIELDS)
    p, x = weights(network, 10), inputs(11, 5, FIELDS, 3)
    together = network.logit(p, x)
    assert together.shape == (5,)
    alone = torch.cat([network.logit(p, event) for event in x])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


def test_negative_slope_and_beta_are_those_of_the_configuration() -> None:
    sml = SkipMetaLogit((1,), "unit", 0.25, 1.0)
    p = {
        name: torch.tensor(v)
        for name, v in (("sml.1.scale", [[-2.0]]), ("sml.1.beta", [1.0]), ("sml.1.weight", [3.0]))
    }
    # inner = -2 * 1.5 + 1 = -2, s = -0.5, F = 3 tanh(-0.75)
    assert float(sml.skip_logit(p, 1, torch.tensor([1.5]))) == pytest.approx(3 * np.tanh(-0.75), rel=1e-6)
    network = build_network(replace(CONFIG, beta=0.7), FIELDS)
    views = network.layout.views(torch.from_numpy(network.layout.initial(1)))
    assert torch.equal(views["sml.1.beta"], torch.full((7,), 0.7))
    assert torch.equal(views["tower.1.bias"], torch.zeros(7))


def test_unit_scales_have_a_matrix_and_scalar_scales_a_line() -> None:
    shapes = {}
    for scale in ("unit", "scalar"):
        network = build_network(replace(CONFIG, scale="unit" if scale == "unit" else "scalar"), FIELDS)
        shapes[scale] = {p.name: p.shape for p in network.layout.parameters}
    assert shapes["unit"]["sml.1.scale"] == (7, 7)
    assert shapes["unit"]["sml.1.beta"] == (7,)
    assert shapes["scalar"]["sml.1.scale"] == (1, 7)
    assert shapes["scalar"]["sml.1.beta"] == (1,)


def test_variance_of_the_skip_logits_grows_in_proportion_to_depth() -> None:
    # eq. 6 and 12: each skip adds its own variance, so 32 layers add 4 times what 8 add
    x = inputs(12, 64, FIELDS, 3).float()
    variance = {}
    for depth in (8, 32):
        network = build_network(replace(CONFIG, hidden=(24,) * depth), FIELDS)
        skips = []
        for seed in range(60):
            p = network.layout.views(torch.from_numpy(network.layout.initial(seed)))
            z_0, outputs = network.backbone.forward(p, x)
            assert network.sml is not None
            skips.append(network.sml.add(p, torch.zeros_like(z_0), outputs))
        variance[depth] = float(torch.stack(skips).var())
    assert 2.5 < variance[32] / variance[8] < 6.0


@pytest.mark.parametrize("mode", ["mean", "sum"])
def test_pooling_equals_a_loop_over_segments(mode: str) -> None:
    rng = np.random.default_rng(1)
    x, segment = rng.normal(size=(20, 3)), rng.integers(0, 9, 20)
    expected = np.zeros((10, 3))
    for k in range(10):
        members = [x[n] for n in range(20) if segment[n] == k]
        if members:
            expected[k] = np.mean(members, axis=0) if mode == "mean" else np.sum(members, axis=0)
    pooled = pool(torch.tensor(x), torch.tensor(segment), 10, "mean" if mode == "mean" else "sum")
    np.testing.assert_allclose(pooled.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_layout_views_cover_the_vector_once() -> None:
    network = build_network(CONFIG, FIELDS)
    flat = torch.zeros(network.layout.size)
    for view in network.layout.views(flat).values():
        view += 1.0
    assert torch.equal(flat, torch.ones(network.layout.size))
    assert network.layout.describe() == [[p.name, list(p.shape)] for p in network.layout.parameters]
