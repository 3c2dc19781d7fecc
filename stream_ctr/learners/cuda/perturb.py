"""The perturbation with its norms as numbers on the device, which nobody waits for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.optim.perturbation import Perturbation


class DevicePerturbation:
    """What :class:`~stream_ctr.optim.perturbation.Perturbation` computes, never asking the device for a
    number.

    The factors are zero-dimensional tensors, or one a row; formulas and equation numbers stand there.
    """

    def __init__(self, config: OptimizerConfig, row_blocks: Sequence[int]) -> None:
        """``row_blocks`` are the widths of the parts of a row that have norms of their own."""
        self._config = config
        self._rule = Perturbation(config, row_blocks)
        self.active = self._rule.active
        """Whether there is a second pass at all."""
        self.adaptive = self._rule.adaptive
        """Whether the factors are those of :meth:`adaptive_factors`, one an element."""
        helen = config.method == "helen"
        self._rho_dense = config.rho_dense if helen and config.perturb != "embedding" else 0.0
        if config.method == "sam":
            self._rho_dense = config.rho
        self._global = config.method == "sam" or config.dense_norm == "global"

    def dense_factor(self, dense_square: Tensor, row_square: Tensor, learned: Tensor) -> Tensor | None:
        """c of eps_h = c * g_h from the squared norms of the gradients; None: the dense part stays."""
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
        """c of eps_jk = c * g_jk for each row, [S, D] or broadcastable to it; None: no row moves.

        ``squares`` are the squared norms of the dense and of all rows' gradients.
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
        """The factor times the share of the radii in force after ``learned`` (int64 [1]) steps."""
        events = self._config.warm_up_events
        if events == 0:
            return factor
        return factor * (learned.double() / events).clamp(max=1.0).to(factor.dtype)


def _over_root(radius: float, square: Tensor) -> Tensor:
    """radius / sqrt(square), 0 where that is no number."""
    return torch.where(square > 0.0, radius * square.rsqrt(), 0.0)
