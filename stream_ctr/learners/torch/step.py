"""One update of a network by automatic differentiation, from the mean loss of one or more events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from stream_ctr.config.label_policy import LabelLoss
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ModelError
from stream_ctr.learners.compiled.workspace import flat_places
from stream_ctr.learners.torch.row_table import RowTable, indexable
from stream_ctr.models.build import Network
from stream_ctr.models.dropout import Dropout
from stream_ctr.models.layers import pool
from stream_ctr.models.layout import Layout, Weights
from stream_ctr.optim.moments import DENSE, ROWS
from stream_ctr.optim.perturbation import Perturbation
from stream_ctr.optim.rules import SGD, AdaGrad, Rule, build_first_order_rule, build_rule
from stream_ctr.optim.torch_accumulators import Accumulators

BIASES = ("bias", "beta")
"""Name suffixes of dense parameters that are biases, which ASAM does not scale."""


@dataclass(frozen=True, slots=True)
class Events:
    """B events over U distinct rows: N present slots."""

    count: int
    """B."""
    index: Tensor
    """int64 [U] distinct rows."""
    field: Tensor
    """int64 [U] field of each row."""
    ratio: Tensor
    """[U] N / M of each row (eq. 7)."""
    place: Tensor | None
    """int64 [N] index of the row in each slot; None: slot i holds row i, as for one event."""
    segment: Tensor
    """int64 [N] event * F + field of each slot."""
    single: bool
    """Every field of every event has exactly one row, in order, so that pooling is the identity."""


class SkipIdle:
    """Applies a rule to the weights whose gradient is not 0; idle ones and their accumulators keep every bit.

    At any event about half of the units are inactive (ReLU output 0), so their weights have no gradient. Adam
    and its variants would still move these weights by the moments of earlier events, and so would read and
    write every weight and moment of the network at every event. Here the moments of an idle weight neither
    decay nor move it. Steps are counted for all weights together.
    """

    counts_steps: ClassVar[bool] = True

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.accumulators = rule.accumulators

    @property
    def initial(self) -> float:
        """See :class:`Rule`."""
        return self.rule.initial

    def apply(
        self, weight: Tensor, gradient: Tensor, accumulators: Sequence[Tensor], step: float | Tensor
    ) -> None:
        """See :class:`Rule`."""
        idle = gradient == 0.0
        before = [array.clone() for array in (weight, *accumulators)]
        self.rule.apply(weight, gradient, accumulators, step)
        for array, old in zip((weight, *accumulators), before, strict=True):
            torch.where(idle, old, array, out=array)


class TorchStep:
    """The weights of a network, its rows and their optimizer state; one update at a time.

    The weights are never perturbed in place: the second pass runs on a perturbed copy, so nothing has to be
    undone. An update is skipped if its sum of squared gradients is not finite in the type of the weights; no
    bit of the state changes then.
    """

    def __init__(
        self,
        network: Network,
        optimizer: OptimizerConfig,
        pooling: Literal["mean", "sum"],
        fields: int,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        labels: LabelLoss | None = None,
    ) -> None:
        """``optimizer`` must have passed :func:`~stream_ctr.optim.validation.check_optimizer`.

        Raises:
            ModelError: the optimizer has a rule for first-order weights, but the network has no such weights.
        """
        self.network = network
        self._seed = seed
        self.fields = fields
        self.learned = 0
        """Number of updates so far."""
        self._pooling = pooling
        self._l2 = optimizer.l2
        self._labels = labels or LabelLoss()
        self._all_rows = optimizer.rows == "dense"
        self._perturbation = Perturbation(optimizer, network.row_blocks)
        self.row_rule = build_rule(optimizer.row_rule, optimizer.row_rate, optimizer.row_initial)
        self.dense_rule = build_dense_rule(optimizer)
        self._first_order_rule = build_first_order_rule(optimizer)
        if self._first_order_rule is not None and not has_first_order(network.row_blocks):
            raise ModelError(
                f"optimizer.first_order_rule = {optimizer.first_order_rule!r}: this model has no first-order "
                'weights; choose a backbone that has them, or set optimizer.first_order_rule = "rows"'
            )
        layout = network.layout
        self.dense = torch.from_numpy(layout.initial(seed)).to(device, dtype)
        self.kept = Accumulators(optimizer.moments, seed, dtype)
        self.dense_state = {
            name: self.kept.start(self.dense.shape, self.dense_rule.initial, device)
            for name in self.dense_rule.accumulators
        }
        self._dense_places = torch.from_numpy(flat_places(layout)).to(device)
        self.rows = RowTable(
            network.row_width, self.row_rule, fields, device, dtype, self._first_order_rule, self.kept
        )
        self.leaves = layout.leaves(self.dense)
        self._gradient = torch.zeros_like(self.dense)
        self._perturbed = torch.zeros_like(self.dense)
        self._perturbed_leaves = layout.leaves(self._perturbed)
        self._is_weight = _weights_of(layout).to(device)

    def probability(self, events: Events) -> Tensor:
        """Click probabilities [B]; changes nothing."""
        with torch.no_grad():
            x_UD = self.rows.weight.index_select(0, events.index)
            return torch.sigmoid(self._logit(self.leaves, x_UD, events))

    def learn(self, events: Events, label: float | Tensor, weight: float | Tensor) -> tuple[Tensor, bool]:
        """One update from the loss sum_b weight_b * log loss_b; label and weight are [B] or one number.

        Returns the probabilities [B] before the update, and whether the update was finite and applied.
        """
        x_UD = self.rows.weight.index_select(0, events.index)
        p, g, g_UD = self.gradients(self.leaves, x_UD.detach(), events, label, weight)
        dense_square, row_square = _square(g), _square(g_UD)
        if not np.isfinite(dense_square + row_square):
            return p, False
        if self._perturbation.active:
            leaves, x_perturbed = self._perturb(events, x_UD, g, g_UD, dense_square, row_square)
            _, g, g_UD = self.gradients(leaves, x_perturbed.detach(), events, label, weight)
            if not np.isfinite(_square(g) + _square(g_UD)):
                return p, False
        self._update(events.index, x_UD, g, g_UD)
        return p, True

    def _logit(self, p: Weights, x_UD: Tensor, events: Events, drop: Dropout | None = None) -> Tensor:
        """Logits z [B], with dropout if ``drop`` is given.

        One event passes through the network as [F, D], whose backward pass is shorter.
        """
        x = x_UD if events.place is None else x_UD.index_select(0, events.place)
        if not events.single:
            x = pool(x, events.segment, events.count * self.fields, self._pooling)
        x = x if events.count == 1 else x.view(events.count, self.fields, -1)
        return self.network.logit(p, x, drop)

    def gradients(
        self, leaves: Weights, x_UD: Tensor, events: Events, label: float | Tensor, weight: float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities [B], and gradients of the weighted log loss: dense vector [P] and rows [U, D]."""
        x_UD.requires_grad_()
        # A new object in each pass, so that the perturbed pass draws the same masks as the first.
        z = self._logit(leaves, x_UD, events, self.network.dropout(self._seed, self.learned))
        p = torch.sigmoid(z.detach())
        # The backward pass starts from dL/dz; the loss itself is not needed.
        at_logit = self._labels.logit_gradient(p, label) * weight
        *dense, g_UD = torch.autograd.grad(z, [*leaves.values(), x_UD], at_logit)
        return p, torch.cat([g.reshape(-1) for g in dense], out=self._gradient), g_UD

    def _perturb(
        self, events: Events, x_UD: Tensor, g: Tensor, g_UD: Tensor, dense_square: float, row_square: float
    ) -> tuple[Weights, Tensor]:
        """Dense weights and rows at w + eps."""
        rule = self._perturbation
        share = rule.warm_up(self.learned)
        if rule.adaptive:
            c, c_UD = rule.adaptive_factors(self.dense, g, self._is_weight, x_UD, g_UD, share)
            torch.addcmul(self.dense, g, c, out=self._perturbed)
            return self._perturbed_leaves, torch.addcmul(x_UD, g_UD, c_UD)
        leaves = self.leaves
        factor = rule.dense_factor(dense_square, row_square, share)
        if factor > 0.0:
            torch.add(self.dense, g, alpha=factor, out=self._perturbed)
            leaves = self._perturbed_leaves
        factors = rule.row_factors(g_UD, events.ratio, events.field, self.fields, dense_square, share)
        return leaves, x_UD if factors is None else torch.addcmul(x_UD, g_UD, factors)

    def _update(self, index: Tensor, x_UD: Tensor, g: Tensor, g_UD: Tensor) -> None:
        """Step of the base rules: dense vector and touched rows, or all rows if ``rows = "dense"``."""
        self.learned += 1
        self.update_dense(g, DENSE)
        rows = self.rows
        if self._all_rows:
            used = rows.used
            g_all = x_UD.new_zeros((used, x_UD.shape[1])).index_copy_(0, index, g_UD)
            index = torch.arange(used, device=index.device)
            x_UD, g_UD = rows.weight[:used].clone(), g_all
        if self._l2 > 0.0:
            elapsed_U1 = self.learned - rows.touched.index_select(0, index)
            g_UD = torch.addcmul(g_UD, x_UD, elapsed_U1.to(x_UD.dtype), value=self._l2)
            rows.touched.index_fill_(0, index, self.learned)
        step: float | Tensor = 0.0
        first_order = self._first_order_rule
        if self.row_rule.counts_steps or (first_order is not None and first_order.counts_steps):
            step = rows.step.index_select(0, index).add_(1)
            rows.step.index_copy_(0, index, step)
        accumulators = self.kept.decoded([array.index_select(0, index) for array in rows.accumulators])
        apply_to_rows(self.row_rule, first_order, x_UD, g_UD, accumulators, step)
        rows.weight.index_copy_(0, index, x_UD)
        for array, new in zip(rows.accumulators, self._closed_rows(index, accumulators), strict=True):
            indexable(array).index_copy_(0, index, indexable(new))

    def update_dense(self, g: Tensor, kind: int) -> None:
        """Step of the dense rule under ``g`` [P]; ``kind`` is DENSE, or SECOND_TURN in a replay."""
        stored, rule = list(self.dense_state.values()), self.dense_rule
        values = self.kept.decoded(stored)
        rule.apply(self.dense, g, values, self.learned)
        if self.kept.half:
            new = self.kept.encoded(rule.accumulators, values, self._dense_places, self.learned, kind)
            for array, each in zip(stored, new, strict=True):
                array.copy_(each)

    def _closed_rows(self, index: Tensor, values: list[Tensor]) -> list[Tensor]:
        """The accumulators of rows ``index`` in their stored form."""
        if not self.kept.half:
            return values
        place = self.rows.places(index)
        closed = []
        for name, value in zip(self.rows.names, values, strict=True):
            own = (
                place[:, -value.shape[1] :] if name.startswith("first_order_") else place[:, : value.shape[1]]
            )
            closed += self.kept.encoded([name], [value], own, self.learned, ROWS)
        return closed


def build_dense_rule(config: OptimizerConfig) -> Rule:
    """The rule of the dense weights; with ``dense_idle = "skip"`` it leaves idle weights unchanged."""
    rule = build_rule(config.dense_rule, config.dense_rate, config.dense_initial)
    if config.dense_idle == "step" or isinstance(rule, SGD | AdaGrad):
        return rule
    return SkipIdle(rule)


def has_first_order(row_blocks: tuple[int, ...]) -> bool:
    """Whether rows of these blocks end with a first-order (wide) weight: a last block of width 1.

    >>> has_first_order((16, 1)), has_first_order((16,)), has_first_order((1,))
    (True, False, False)
    """
    return len(row_blocks) > 1 and row_blocks[-1] == 1


def apply_to_rows(
    rule: Rule,
    first_order: Rule | None,
    x_UD: Tensor,
    g_UD: Tensor,
    accumulators: list[Tensor],
    step: float | Tensor,
) -> None:
    """One step of rows, in place; the last column uses ``first_order`` if that is given."""
    if first_order is None:
        rule.apply(x_UD, g_UD, accumulators, step)
        return
    own = len(rule.accumulators)
    rule.apply(x_UD[:, :-1], g_UD[:, :-1], accumulators[:own], step)
    first_order.apply(x_UD[:, -1:], g_UD[:, -1:], accumulators[own:], step)


def _weights_of(layout: Layout) -> Tensor:
    """bool [P]: True for dense weights, False for biases."""
    parts = [
        torch.full((size,), parameter.name.rpartition(".")[2] not in BIASES)
        for parameter, size in zip(layout.parameters, layout.sizes, strict=True)
    ]
    return torch.cat(parts)


def _square(g: Tensor) -> float:
    """Sum of squares in the type of the gradient: infinite on overflow, NaN if g contains NaN."""
    flat = g.reshape(-1)
    return float(torch.dot(flat, flat))
