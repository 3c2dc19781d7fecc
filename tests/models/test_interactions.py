"""Interactions between fields, where a prediction comes before learning."""

from __future__ import annotations

import torch

from stream_ctr.models import interactions


def test_what_a_prediction_prepared_can_be_learned_with() -> None:
    """A process that checks a snapshot's predictions goes on learning with the same places of pairs."""
    interactions._pairs.cache_clear()
    x = torch.ones(1, 5, 3)
    with torch.inference_mode():
        interactions.pair_products(x)
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(interactions.pair_products(x).sum(), x)
    assert gradient.tolist() == [[[4.0] * 3] * 5]
