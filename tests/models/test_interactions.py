"""Interactions between fields, where a prediction comes before learning."""

from __future__ import annotations

import torch

from stream_ctr.models import layers


def test_what_a_prediction_prepared_can_be_learned_with() -> None:
    """A process that checks a snapshot's predictions goes on learning with the same places of pairs."""
    layers._pairs.cache_clear()
    x = torch.ones(1, 5, 3)
    with torch.inference_mode():
        layers.pair_products(x)
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(layers.pair_products(x).sum(), x)
    assert gradient.tolist() == [[[4.0] * 3] * 5]
