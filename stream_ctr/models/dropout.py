"""Dropout as a function of seed and step, without hidden state."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from stream_ctr.kernels.splitmix64 import GOLDEN


@dataclass(slots=True)
class Dropout:
    """Inverted dropout (Srivastava et al. 2014): zeroes numbers with probability ``rate``, rescales the rest.

    One object serves one forward pass: each call draws the next mask. A new object with the same seed and
    step repeats the masks, so the two passes of SAM and Helen see the same network.

    >>> x = torch.ones(8)
    >>> torch.equal(Dropout(0.5, seed=1, step=3)(x), Dropout(0.5, seed=1, step=3)(x))
    True
    """

    rate: float
    """Probability that a number is set to 0."""
    seed: int
    step: int
    _generator: torch.Generator | None = field(default=None, init=False, repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        """x under the next mask; masks depend on seed, step, order of calls, shape and device."""
        if self._generator is None:
            self._generator = torch.Generator(x.device)
            self._generator.manual_seed((self.seed * int(GOLDEN) + self.step) % 2**63)
        kept = torch.empty_like(x).bernoulli_(1.0 - self.rate, generator=self._generator)
        return x * kept.div_(1.0 - self.rate)
