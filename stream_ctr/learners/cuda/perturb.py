"""Perturbation with norms that stay on the device, so that the host never waits for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.optim.perturbation import Perturbation


class DevicePerturbation:
    """:class:`~stream_ctr.optim.perturbation.Perturbation` without reading numbers from the device.

    Factors are zero-dimensional tensors, or have one element per row. See that class for the formulas.
    """

    def __init__(self, config: OptimizerConfig, row_blocks: Sequence[int]) -> None:
        """``row_blocks`` are the widths of the parts of a row; each part has its own norm (eq. 8)."""
        self._config = config
        self._rule = Perturbation(config, row_blocks)
        self.active = self._rule.active
        """Whether a second pass is needed."""
        self.adaptive = self._rule.adaptive
        """Whether to use :meth:`adaptive_factors`, with one factor per element (ASAM)."""
        helen = config.method == "helen"
        self._rho_dense = config.rho_dense if helen and config.perturb != "embedding" else 0.0
        if config.method == "sam":
            self._rho_dense = config.rho
        self._global = config.method == "sam" or config.dense_norm == "global"

    def dense_factor(self, dense_square: Tensor, row_square: Tensor, learned: Tensor) -> Tensor | None:
        """c of eps_h = c * g_h from the squared gradient norms; None: dense weights are not perturbed."""
        if self._rho_dense == 0.0:
            return None
        square = dense_square + row_square if self._global else dense_square
        return self._warmed(_over_root(self._rho_dense, square), learned)

    def row_factors(
        self,
        g_SD: Tensor,
        ratio_S: Tensor,
        field_S: Tensor,
        fields: int,
        squares: tuple[Tensor, Tensor],
        learned: Tensor,
    ) -> Tensor | None:
        """c of eps_jk = c * g_jk for each row, [S, D] or broadcastable to it; None: rows are not perturbed.

        ``squares`` are the squared gradient norms of the dense part and of all rows.
        """
        if self._config.method == "sam":
            return self._warmed(_over_root(self._config.rho, squares[0] + squares[1]), learned)
        factors = self._rule.row_factors(g_SD, ratio_S, field_S, fields, 0.0, 1.0)
        return None if factors is None else self._warmed(factors, learned)

    def adaptive_factors(
        self, w: Tensor, g: Tensor, is_weight: Tensor, x_SD: Tensor, g_SD: Tensor, learned: Tensor
    ) -> tuple[Tensor, Tensor]:
        """ASAM: c of eps = c * g for the dense vector [P] and the rows [S, D], element by element."""
        eta = self._config.eta
        scale = torch.where(is_weight, w.abs() + eta, 1.0)
        scale_SD = x_SD.abs() + eta
        square = ((scale * g) ** 2).sum() + ((scale_SD * g_SD) ** 2).sum()
        length = self._warmed(_over_root(self._config.rho, square), learned)
        return length * scale * scale, length * scale_SD * scale_SD

    def _warmed(self, factor: Tensor, learned: Tensor) -> Tensor:
        """The factor times the share of the radii that applies after ``learned`` (int64 [1]) steps."""
        events = self._config.warm_up_events
        if events == 0:
            return factor
        return factor * (learned.double() / events).clamp(max=1.0).to(factor.dtype)


def _over_root(radius: float, square: Tensor) -> Tensor:
    """radius / sqrt(square); 0 if ``square`` is 0 or NaN."""
    return torch.where(square > 0.0, radius * square.rsqrt(), 0.0)
