"""Interactions between fields when a prediction precedes learning."""

from __future__ import annotations

import torch

from stream_ctr.models import layers


def test_indices_cached_by_a_prediction_work_in_training() -> None:
    """A process that checks the predictions of a snapshot continues learning with the same cached indices."""
    layers._pairs.cache_clear()
    x = torch.ones(1, 5, 3)
    with torch.inference_mode():
        layers.pair_products(x)
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(layers.pair_products(x).sum(), x)
    assert gradient.tolist() == [[[4.0] * 3] * 5]
