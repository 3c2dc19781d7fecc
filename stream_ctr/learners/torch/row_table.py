"""Embedding rows as tensors, on any device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from stream_ctr.learners.compiled.rows import Rows, grown
from stream_ctr.optim.rules import Rule
from stream_ctr.optim.torch_accumulators import Accumulators


class RowTable(Rows[Tensor]):
    """Rows as torch tensors; on the CPU they share memory with numpy arrays."""

    def __init__(
        self,
        width: int,
        rule: Rule,
        used: int,
        device: torch.device,
        dtype: torch.dtype,
        first_order: Rule | None = None,
        kept: Accumulators | None = None,
    ) -> None:
        """``kept`` is the storage of the accumulators; by default they have the type of the weights."""
        self._device = device
        kind = torch.zeros(0, dtype=dtype).numpy().dtype
        super().__init__(width, rule, used, kind, kept is not None and kept.half, first_order)

    def initialise(self, index: Tensor, values: Tensor, now: int) -> None:
        """Initialise rows ``index`` [K] with ``values`` [K, width], as if last touched at event ``now``."""
        self.weight.index_copy_(0, index, values)
        for array, initial in zip(self.accumulators, self._fill, strict=True):
            indexable(array).index_fill_(0, index, initial)
        self.step.index_fill_(0, index, 0)
        self.touched.index_fill_(0, index, now)

    def places(self, index: Tensor) -> Tensor:
        """Position in the table of each number of rows ``index`` [K], int64 [K, width]."""
        width = self.weight.shape[1]
        return index.unsqueeze(1) * width + torch.arange(width, device=index.device)

    def _full(self, shape: tuple[int, int], value: float, dtype: DTypeLike) -> Tensor:
        return torch.from_numpy(np.full(shape, value, dtype)).to(self._device)

    def _grown(self, array: Tensor, capacity: int) -> Tensor:
        if self._device.type == "cpu":
            return torch.from_numpy(grown(array.numpy(), capacity))
        larger = array.new_zeros((capacity, array.shape[1]))
        larger[: len(array)] = array
        return larger

    def _host(self, array: Tensor, rows: int) -> NDArray[Any]:
        host: NDArray[Any] = array[:rows].cpu().numpy()
        return host

    def _clear(self, array: Tensor) -> None:
        array.zero_()

    def _write(self, array: Tensor, values: NDArray[Any]) -> None:
        array[: len(values)] = torch.from_numpy(np.ascontiguousarray(values)).to(self._device)


def indexable(array: Tensor) -> Tensor:
    """The same memory as a signed type: torch cannot write to unsigned tensors by index."""
    return array.view(torch.int16) if array.dtype == torch.uint16 else array
