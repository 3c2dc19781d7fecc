"""Perturbation of the weights before the second gradient: SAM, ASAM and Helen.

Helen (Zhu et al., WWW 2024, arXiv 2403.00798), with running count N_jk of feature k of field j:

    rho_jk = rho * max(N_jk / M_j, xi),  M_j = max_k N_jk      (eq. 7)
    eps_jk = rho_jk * g_jk / ||g_jk||    for every row          (eq. 8), 0 where the norm is 0
    eps_h  = rho * g_h / ||g_h||         for the dense part     (algorithm 1, line 4)

SAM (Foret et al. 2021): eps = rho * g / ||g|| with one norm over all parameters.

ASAM (Kwon et al. 2021, algorithm 1 with the element-wise operator): eps = rho * T^2 g / ||T g|| with one norm
over all parameters, T = |w| + eta for weights (embedding rows among them) and 1 for biases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stream_ctr.config.optimizer import OptimizerConfig


class Perturbation:
    """The perturbation of a configured optimizer, as pure functions of the gradients of one step."""

    def __init__(self, config: OptimizerConfig, row_blocks: Sequence[int]) -> None:
        """``row_blocks`` are the widths of the parts of a row; each part has its own norm (eq. 8)."""
        self._config = config
        self._blocks = tuple(row_blocks)
        helen = config.method == "helen"
        self._rho_rows = 0.0 if config.perturb == "dense" and helen else config.rho
        self._rho_dense = config.rho
        if helen:
            self._rho_dense = 0.0 if config.perturb == "embedding" else config.rho_dense
        if config.method in ("auto", "base", "revisit"):
            self._rho_rows = self._rho_dense = 0.0

    @property
    def adaptive(self) -> bool:
        """Whether to use :meth:`adaptive_factors`, with one factor per element (ASAM)."""
        return self._config.method == "asam"

    @property
    def active(self) -> bool:
        """Whether a second pass is needed; with both radii 0 it would repeat the first."""
        return self._rho_rows > 0.0 or self._rho_dense > 0.0

    def warm_up(self, learned: int) -> float:
        """The share of the radii that applies after ``learned`` steps: a linear ramp from 0 to 1."""
        events = self._config.warm_up_events
        return 1.0 if learned >= events else learned / events

    def dense_factor(self, dense_square: float, row_square: float, share: float) -> float:
        """c of eps_h = c * g_h, from the squared gradient norms of the dense part and of all rows."""
        both = self._config.method == "sam" or self._config.dense_norm == "global"
        return _over_root(self._rho_dense * share, dense_square + row_square if both else dense_square)

    def row_factors(
        self, g_ND: Tensor, ratio_N: Tensor, field_N: Tensor, fields: int, dense_square: float, share: float
    ) -> Tensor | None:
        """c of eps_jk = c * g_jk for the N distinct rows of a step, [N, D] or broadcastable to it.

        ``ratio_N`` is N_jk / M_j, ``field_N`` (int64) the field of each row. Returns None if the radius of
        the rows is 0.
        """
        radius = self._rho_rows * share
        if radius == 0.0:
            return None
        square_ND = g_ND * g_ND
        if self._config.method == "sam":
            total = dense_square + float(square_ND.sum())
            return g_ND.new_full((1, 1), _over_root(radius, total))
        radius_N1 = ratio_N.clamp(min=self._config.xi).mul_(radius).unsqueeze(1)
        parts = []
        for part_Nd in torch.split_with_sizes(square_ND, self._blocks, dim=1):
            square_N1 = part_Nd.sum(1, keepdim=True)
            if self._config.row_norm == "table":
                table = square_N1.new_zeros((fields, 1)).index_add_(0, field_N, square_N1)
                square_N1 = table.index_select(0, field_N)
            factor_N1 = torch.where(square_N1 > 0.0, radius_N1 * square_N1.rsqrt(), 0.0)
            parts.append(factor_N1 if len(self._blocks) == 1 else factor_N1.expand_as(part_Nd))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def adaptive_factors(
        self, w: Tensor, g: Tensor, is_weight: Tensor, x_ND: Tensor, g_ND: Tensor, share: float
    ) -> tuple[Tensor, Tensor]:
        """ASAM: c of eps = c * g for the dense vector [P] and the rows [N, D], element by element.

        ``is_weight`` (bool [P]) is True for dense weights and False for biases.
        """
        eta = self._config.eta
        scale = torch.where(is_weight, w.abs() + eta, 1.0)
        scale_ND = x_ND.abs() + eta
        square = float(((scale * g) ** 2).sum()) + float(((scale_ND * g_ND) ** 2).sum())
        length = _over_root(self._config.rho * share, square)
        return length * scale * scale, length * scale_ND * scale_ND


def _over_root(radius: float, square: float) -> float:
    return radius / math.sqrt(square) if square > 0.0 else 0.0
