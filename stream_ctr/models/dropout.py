"""Dropout as a function of a seed and a step: nothing about it is hidden state."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from stream_ctr.kernels.splitmix64 import GOLDEN


@dataclass(slots=True)
class Dropout:
    """Sets a share of numbers to 0 and divides the others by what is kept (Srivastava et al. 2014, inverted).

    One object serves one forward pass: each call takes the next mask. A new object of the same seed and step
    gives the same masks again, so that the two passes of SAM and Helen see one network.

    >>> x = torch.ones(8)
    >>> torch.equal(Dropout(0.5, seed=1, step=3)(x), Dropout(0.5, seed=1, step=3)(x))
    True
    """

    rate: float
    """Share that is set to 0."""
    seed: int
    step: int
    _generator: torch.Generator | None = field(default=None, init=False, repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        """x with the next mask on it; the masks depend on seed, step, order of calls, shape and device."""
        if self._generator is None:
            self._generator = torch.Generator(x.device)
            self._generator.manual_seed((self.seed * int(GOLDEN) + self.step) % 2**63)
        kept = torch.empty_like(x).bernoulli_(1.0 - self.rate, generator=self._generator)
        return x * kept.div_(1.0 - self.rate)
