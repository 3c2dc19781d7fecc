"""Accumulators as tensors, in the type of the weights or in 16 bits; see :mod:`stream_ctr.optim.moments`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stream_ctr.optim.moments import MOST, WEYL, bits_of, rounding_key


class Accumulators:
    """Storage of the accumulators of a rule: in the type of the weights, or in 16 bits.

    A rule calculates with the tensors that :meth:`decoded` returns; :meth:`encoded` converts them back.
    """

    def __init__(self, moments: str, seed: int, dtype: torch.dtype) -> None:
        """``moments`` is ``optimizer.moments``; ``dtype`` is the type of the weights."""
        self.half = moments == "bfloat16"
        self._seed, self._dtype = seed, dtype

    def start(self, shape: Sequence[int], initial: float, device: torch.device) -> Tensor:
        """An accumulator that starts at ``initial``."""
        if not self.half:
            return torch.full(tuple(shape), initial, device=device, dtype=self._dtype)
        return torch.full(tuple(shape), bits_of(initial), device=device, dtype=torch.uint16)

    def decoded(self, stored: Sequence[Tensor]) -> list[Tensor]:
        """Tensors in the type of the weights, which the caller may change in place."""
        if not self.half:
            return list(stored)
        wide = ((array.to(torch.int32) << 16).view(torch.float32) for array in stored)
        return [array.to(self._dtype) for array in wide]

    def encoded(
        self, names: Sequence[str], values: Sequence[Tensor], place: Tensor, step: int, kind: int
    ) -> list[Tensor]:
        """``values`` after ``step`` in their stored form; ``place`` (int64) is broadcast to their shapes."""
        if not self.half:
            return list(values)
        weyl = (place * WEYL + int(rounding_key(self._seed, step, kind))) & 0xFFFFFFFF
        kept = []
        for name, value in zip(names, values, strict=True):
            square = name.endswith("square")
            r = weyl >> 16 if square else weyl & 0xFFFF
            single = (value.clamp(max=MOST) if square else value).to(torch.float32)
            bits = single.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
            kept.append(((bits + r) >> 16).to(torch.uint16))
        return kept
