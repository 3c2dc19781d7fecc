"""Every form of skip logit against its formula, its stop-gradient, and the paper's results for depth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stream_ctr.config.model import ModelConfig
from stream_ctr.models.build import Network, build_network
from stream_ctr.models.layout import Weights
from stream_ctr.models.sml import SkipMetaLogit
from tests.support.backbone_oracles import skip_logit
from tests.support.backbone_variants import FIELDS, inputs, small, weights

META = ("meta_vanilla", "meta_relu", "meta_sigmoid", "meta_tanh")
FORMS = [
    *(small(sml=True, skip="vanilla"), small(sml=True, skip="relu")),
    *(small(sml=True, skip="sigmoid"), small(sml=True, skip="tanh")),
    *(small(sml=True, skip="learned_scale", scale=scale) for scale in ("unit", "scalar")),
    *(small(sml=True, skip=f, scale=s) for f in META for s in ("unit", "scalar", "low_rank")),
]
every = pytest.mark.parametrize("config", FORMS, ids=[f"{c.skip}-{c.scale}" for c in FORMS])


def skips_of(network: Network) -> SkipMetaLogit:
    assert network.sml is not None
    return network.sml


@every
def test_skip_logit_is_that_of_the_formula(config: ModelConfig) -> None:
    sml = skips_of(build_network(config, FIELDS))
    p = weights(build_network(config, FIELDS), 1)
    plain = {name: leaf.detach().numpy() for name, leaf in p.items()}
    for i, width in enumerate(config.hidden, start=1):
        x = inputs(i, 7, width)  # both signs, unlike the output of a ReLU
        expected = [skip_logit(config, plain, i, event.numpy()) for event in x]
        found = sml.skip_logit(p, i, x).detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@every
def test_gradient_at_a_layer_is_that_of_a_constant_scale(config: ModelConfig) -> None:
    # stop-gradient: dF/dx has no factor w_i, so it is that of the formula with s held at its value
    network = build_network(config, FIELDS)
    sml, p = skips_of(network), weights(network, 2)
    x = inputs(3, 5).requires_grad_()
    (found,) = torch.autograd.grad(sml.skip_logit(p, 1, x), x)
    scale = torch.ones(5, dtype=torch.float64)
    if config.skip == "learned_scale":
        scale = p["sml.1.beta"].detach().expand(5)
    elif config.skip.startswith("meta_"):
        w = p["sml.1.up"] @ p["sml.1.down"] if config.scale == "low_rank" else p["sml.1.scale"]
        inner = (w @ x + p["sml.1.beta"]).detach()
        scale = torch.where(inner > 0, inner, config.slope * inner).expand(5)
    name = config.skip.removeprefix("meta_")
    functions: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "sigmoid": torch.sigmoid}
    function = functions.get(name, torch.tanh)
    if name == "vanilla":
        function = torch.clone
    for k in range(5):
        values = []
        for step in (1e-6, -1e-6):
            moved = x.detach().clone()
            moved[k] += step
            values.append(float((p["sml.1.weight"].detach() * function(scale * moved)).sum()))
        assert float(found[k]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6, abs=1e-8)


@every
def test_gradient_at_the_parameters_is_that_of_finite_differences(config: ModelConfig) -> None:
    network = build_network(config, FIELDS)
    sml, p, x = skips_of(network), weights(network, 4), inputs(5, 3, 5)
    names = [name for name in p if name.startswith("sml.1.")]
    gradients = torch.autograd.grad(sml.skip_logit(p, 1, x).sum(), [p[name] for name in names])
    for name, gradient in zip(names, gradients, strict=True):
        flat = p[name].detach().view(-1)
        for k in range(0, len(flat), 3):
            kept, values = float(flat[k]), []
            for step in (1e-6, -1e-6):
                flat[k] = kept + step
                values.append(float(sml.skip_logit(p, 1, x).sum().detach()))
            flat[k] = kept
            expected = (values[0] - values[1]) / 2e-6
            assert float(gradient.reshape(-1)[k]) == pytest.approx(expected, rel=1e-5, abs=1e-7), (name, k)


@every
@pytest.mark.parametrize("events", [1, 6])
def test_weight_zero_is_the_base_network_bit_for_bit(config: ModelConfig, events: int) -> None:
    network, base = build_network(config, FIELDS), build_network(small(sml=False), FIELDS)
    flat = torch.from_numpy(network.layout.initial(1)) + 0.1
    views = network.layout.views(flat)
    for i in (1, 2):
        views[f"sml.{i}.weight"].zero_()
    shape = (FIELDS, 3) if events == 1 else (events, FIELDS, 3)
    x = inputs(6, *shape).float().requires_grad_()
    z, z_0 = network.logit(views, x), base.logit(views, x)
    assert torch.equal(z, z_0)
    assert torch.equal(*(torch.autograd.grad(each.sum(), x)[0] for each in (z, z_0)))


def test_literal_mode_starts_with_biases_of_zero() -> None:
    network = build_network(small(sml=True, beta=0.0), FIELDS)
    p = network.layout.views(torch.from_numpy(network.layout.initial(1)).double())
    x = inputs(7, 9, 5)
    inner = x @ p["sml.1.scale"].T  # eq. 16 without a bias
    s = torch.where(inner > 0, inner, 0.2 * inner)
    expected = (p["sml.1.weight"] * torch.tanh(s * x)).sum(1)
    torch.testing.assert_close(skips_of(network).skip_logit(p, 1, x), expected, rtol=1e-12, atol=1e-14)


def test_full_rank_as_a_product_is_the_full_scale() -> None:
    # rank h holds every matrix: up = w, down = identity
    full, low = (small(sml=True, scale=scale, scale_rank=5) for scale in ("unit", "low_rank"))
    p, x = weights(build_network(full, FIELDS), 8), inputs(9, 6, 5)
    q = {**p, "sml.1.up": p["sml.1.scale"], "sml.1.down": torch.eye(5, dtype=torch.float64)}
    one, other = (skips_of(build_network(c, FIELDS)) for c in (full, low))
    torch.testing.assert_close(one.skip_logit(p, 1, x), other.skip_logit(q, 1, x), rtol=1e-12, atol=1e-14)


def test_low_rank_has_fewer_parameters() -> None:
    sizes = {}
    for scale in ("unit", "low_rank", "scalar"):
        config = ModelConfig(hidden=(64,), scale=scale, scale_rank=4)
        network = build_network(config, FIELDS)
        sizes[scale] = sum(
            s
            for q, s in zip(network.layout.parameters, network.layout.sizes, strict=True)
            if q.name.startswith("sml.")
        )
    assert sizes == {"unit": 64 * 64 + 128, "low_rank": 2 * 4 * 64 + 128, "scalar": 64 + 1 + 64}


def test_after_a_relu_the_form_relu_is_vanilla() -> None:
    # layer outputs are never negative, so both rows of the ablation are the same network here
    found = []
    for skip in ("vanilla", "relu"):
        network = build_network(small(sml=True, skip=skip), FIELDS)
        found.append(network.logit(weights(network, 10), inputs(11, 20, FIELDS, 3)))
    assert torch.equal(found[0], found[1])


def logits(config: ModelConfig, seed: int, x: Tensor) -> tuple[Network, Weights, Tensor]:
    network = build_network(config, FIELDS)
    p = network.layout.views(torch.from_numpy(network.layout.initial(seed)))
    return network, p, network.logit(p, x)


@settings(max_examples=12, deadline=None)
@given(depth=st.integers(2, 12), width=st.integers(8, 40), seed=st.integers(0, 10_000))
def test_variance_of_the_logit_is_the_sum_over_the_layers(depth: int, width: int, seed: int) -> None:
    # eq. 6 and 12: over independent W_i of mean 0 and deviation sigma, Var(z) = sum_i sigma^2
    # |tanh(s_i x_i)|^2, a share for every layer: so it is linear in depth
    config = ModelConfig(embedding=3, hidden=(width,) * depth)
    network, p, _ = logits(config, seed, torch.zeros(FIELDS, 3))
    x = inputs(seed, FIELDS, 3).float()
    _, outputs = network.backbone.forward(p, x)
    sml, draws = skips_of(network), 4000
    generator = torch.Generator().manual_seed(seed)
    deviation = (2 / (width + 1)) ** 0.5  # Xavier
    total, expected = torch.zeros(draws), 0.0
    for i, x_i in enumerate(outputs, start=1):
        inner = p[f"sml.{i}.scale"] @ x_i + p[f"sml.{i}.beta"]
        t = torch.tanh(torch.where(inner > 0, inner, 0.2 * inner) * x_i)
        w = torch.randn(width, draws, generator=generator) * deviation
        total += sml.skip_logit({**p, f"sml.{i}.weight": w}, i, x_i)
        expected += deviation**2 * float(t @ t)
    # a sample variance of normal numbers has the relative error sqrt(2 / draws)
    assert float(total.var()) == pytest.approx(expected, rel=6 * (2 / draws) ** 0.5)


def test_depth_of_a_hundred_trains_with_skip_logits() -> None:
    # Fig. 5: a hundred layers learn with skip logits, but not without
    x = inputs(13, 64, FIELDS, 3).float()
    label = (x[:, 0, 0] * x[:, 1, 0] > 0).float()
    losses = {}
    for sml in (True, False):
        network = build_network(ModelConfig(embedding=3, hidden=(12,) * 100, sml=sml), FIELDS)
        flat = torch.from_numpy(network.layout.initial(3)).requires_grad_()
        optimizer = torch.optim.Adam([flat], lr=1e-3)
        for _ in range(24):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                network.logit(network.layout.views(flat), x), label
            )
            assert torch.isfinite(loss)
            (flat.grad,) = torch.autograd.grad(loss, [flat])
            assert torch.isfinite(flat.grad).all()
            optimizer.step()
        losses[sml] = float(loss.detach())
    assert losses[True] < 0.55
    assert losses[False] > 0.69
