"""The step of one event as a fixed sequence of device operations, suitable for a CUDA graph.

The step never reads a number from the device, and no shape depends on one. It can therefore be recorded once
and replayed for every event. A cursor on the device selects the event; each step advances it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stream_ctr.config.label_policy import LabelLoss
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.learners.cuda.chunk import DeviceChunk
from stream_ctr.learners.cuda.perturb import DevicePerturbation
from stream_ctr.learners.torch.step import TorchStep, apply_to_rows
from stream_ctr.models.build import Network
from stream_ctr.models.layout import Weights
from stream_ctr.optim.rules import SGD, AdaGrad

CHUNK_EVENTS = 1024
"""Events per chunk on the device; longer batches are split."""
QUIET_RULES = (SGD, AdaGrad)
"""Base rules that change no bit of a weight whose gradient is +0."""


@dataclass(frozen=True, slots=True)
class _Event:
    """The event at the cursor."""

    rows_S: Tensor
    x_SD: Tensor
    """[S, D] values of its rows; zero for empty slots."""
    ratio_S: Tensor
    label: Tensor
    weight: Tensor
    pooled: tuple[Tensor, Tensor] | None
    """Membership of slots in fields [F, S], and slots per field [F, 1]; None: slot i is field i."""


class CursorStep(TorchStep):
    """Weights and rules as in :class:`TorchStep`; one step learns the event at the cursor of the chunk.

    A non-finite update is computed but discarded. The dense part selects between new and old values. Rows are
    written to a spare row of the table instead of their own. Empty slots refer to the spare row as well.
    While events are learned, the chunk holds the number of updates.

    A row that is initialised before event b of this chunk gets -1 - b as the time of its last touch, because
    the number of updates before b is not yet known. Steps resolve such a time through ``chunk.before``, and
    :meth:`settle` replaces it.
    """

    def __init__(
        self,
        network: Network,
        optimizer: OptimizerConfig,
        pooling: Literal["mean", "sum"],
        seed: int,
        slot_field: Tensor,
        fields: int,
        dtype: torch.dtype,
        labels: LabelLoss | None = None,
    ) -> None:
        """``slot_field`` int64 [S] determines the device of all tensors.

        Raises:
            ModelError: as :class:`TorchStep`.
        """
        device = slot_field.device
        super().__init__(network, optimizer, pooling, fields, seed, device, dtype, labels)
        self.chunk = DeviceChunk(CHUNK_EVENTS, len(slot_field), device, dtype)
        self.rows.keep_spare()
        self._slot_field = slot_field
        self._shift = DevicePerturbation(optimizer, network.row_blocks)
        of_field = torch.arange(fields, device=device).unsqueeze(1)
        self._member_FS = (slot_field == of_field).to(dtype)

    @property
    def spare(self) -> int:
        """Index of the spare row of the table."""
        return self.rows.weight.shape[0] - 1

    @torch.no_grad()
    def predict_event(self, full: bool) -> None:
        """Score the event at the cursor. ``full``: slot i is field i, and no slot is empty."""
        event = self._event(full)
        z = self.network.logit(self.leaves, self._pool(event.x_SD, event))
        self._finish(torch.sigmoid(z))

    @torch.no_grad()
    def pass_event(self) -> None:
        """Pass an event that is neither scored nor learned; rows may be initialised before it."""
        chunk = self.chunk
        chunk.before.index_copy_(0, chunk.cursor, chunk.learned)
        chunk.cursor.add_(1)

    def learn_event(self, full: bool) -> None:
        """Score and learn the event at the cursor."""
        event = self._event(full)
        p, g, g_SD = self._gradients_at(self.leaves, event.x_SD, event)
        squares = _square(g), _square(g_SD)
        finite = _finite(squares)
        if self._shift.active:
            leaves, x_SD = self._perturbed_at(event, g, g_SD, squares)
            _, g, g_SD = self._gradients_at(leaves, x_SD, event)
            finite = finite.logical_and(_finite((_square(g), _square(g_SD))))
        with torch.no_grad():
            self.chunk.learned.add_(finite)
            self._update_dense(g, finite)
            self._update_rows(event, g_SD, finite)
            self.chunk.skipped.index_copy_(0, self.chunk.cursor, finite.logical_not().view(1))
            self._finish(p)

    @torch.no_grad()
    def start_rows(self, index: Tensor, values: Tensor, event: Tensor) -> None:
        """Initialise distinct rows ``index`` [K] with ``values`` [K, width] before their ``event`` [K, 1]."""
        self.rows.initialise(index, values, 0)
        self.rows.touched.index_copy_(0, index, -1 - event)

    @torch.no_grad()
    def settle(self, index: Tensor) -> None:
        """Set the times of rows ``index`` that were initialised in this chunk and not touched since."""
        touched = self.rows.touched
        touched.index_copy_(0, index, self._settled(touched.index_select(0, index)))

    def _event(self, full: bool) -> _Event:
        chunk, slots = self.chunk, len(self._slot_field)
        rows_S = chunk.rows.index_select(0, chunk.cursor).view(-1)
        numbers = chunk.numbers.index_select(0, chunk.cursor).view(-1)
        chunk.before.index_copy_(0, chunk.cursor, chunk.learned)
        x_SD, pooled = self.rows.weight.index_select(0, rows_S), None
        if not full:
            # Not a product with 0: the spare row may contain NaN.
            present_S = rows_S != self.spare
            x_SD = torch.where(present_S.unsqueeze(1), x_SD, 0.0)
            member_FS = self._member_FS * present_S
            pooled = member_FS, member_FS.sum(1, keepdim=True).clamp(min=1.0)
        ratio_S, label, weight = numbers.split_with_sizes([slots, 1, 1])
        return _Event(rows_S, x_SD, ratio_S, label, weight, pooled)

    def _pool(self, x_SD: Tensor, event: _Event) -> Tensor:
        """Pool slots [S, D] to fields [F, D]."""
        if event.pooled is None:
            return x_SD
        member_FS, count_F1 = event.pooled
        total = torch.matmul(member_FS, x_SD)
        return total if self._pooling == "sum" else total / count_F1

    def _gradients_at(self, leaves: Weights, x_SD: Tensor, event: _Event) -> tuple[Tensor, Tensor, Tensor]:
        """Probability [1], and gradients of the weighted log loss: dense vector [P] and rows [S, D]."""
        x_SD = x_SD.detach().requires_grad_()
        z = self.network.logit(leaves, self._pool(x_SD, event))
        p = torch.sigmoid(z.detach())
        at_logit = self._labels.logit_gradient(p, event.label) * event.weight
        *dense, g_SD = torch.autograd.grad(z, [*leaves.values(), x_SD], at_logit)
        return p, torch.cat([g.reshape(-1) for g in dense], out=self._gradient), g_SD

    @torch.no_grad()
    def _perturbed_at(
        self, event: _Event, g: Tensor, g_SD: Tensor, squares: tuple[Tensor, Tensor]
    ) -> tuple[Weights, Tensor]:
        """Dense weights and rows at w + eps."""
        rule, learned, x_SD = self._shift, self.chunk.learned, event.x_SD
        if rule.adaptive:
            c, c_SD = rule.adaptive_factors(self.dense, g, self._is_weight, x_SD, g_SD, learned)
            torch.addcmul(self.dense, g, c, out=self._perturbed)
            return self._perturbed_leaves, torch.addcmul(x_SD, g_SD, c_SD)
        leaves, factor = self.leaves, rule.dense_factor(*squares, learned)
        if factor is not None:
            torch.addcmul(self.dense, g, factor, out=self._perturbed)
            leaves = self._perturbed_leaves
        factors = rule.row_factors(g_SD, event.ratio_S, self._slot_field, self.fields, squares, learned)
        return leaves, x_SD if factors is None else torch.addcmul(x_SD, g_SD, factors)

    def _update_dense(self, g: Tensor, finite: Tensor) -> None:
        """Step of the base rule for the dense vector, if ``finite``."""
        rule, arrays = self.dense_rule, [self.dense, *self.dense_state.values()]
        if isinstance(rule, QUIET_RULES):
            rule.apply(arrays[0], torch.where(finite, g, 0.0), arrays[1:], 0.0)
            return
        stepped = [array.clone() for array in arrays]
        rule.apply(stepped[0], g, stepped[1:], self.chunk.learned)
        for array, new in zip(arrays, stepped, strict=True):
            torch.where(finite, new, array, out=array)

    def _update_rows(self, event: _Event, g_SD: Tensor, finite: Tensor) -> None:
        """Step of the base rules for the rows of the event; written to the spare row if not ``finite``."""
        rows, index, x_SD = self.rows, event.rows_S, event.x_SD
        target = torch.where(finite, index, self.spare)
        if self._l2 > 0.0:
            learned = self.chunk.learned
            elapsed_S1 = learned - self._settled(rows.touched.index_select(0, index))
            g_SD = torch.addcmul(g_SD, x_SD, elapsed_S1.to(x_SD.dtype), value=self._l2)
            rows.touched.index_copy_(0, target, learned.expand(len(index), 1))
        step: float | Tensor = 0.0
        first_order = self._first_order_rule
        if self.row_rule.counts_steps or (first_order is not None and first_order.counts_steps):
            step = rows.step.index_select(0, index).add_(1)
            rows.step.index_copy_(0, target, step)
        accumulators = [array.index_select(0, index) for array in rows.accumulators]
        apply_to_rows(self.row_rule, first_order, x_SD, g_SD, accumulators, step)
        rows.weight.index_copy_(0, target, x_SD)
        for array, gathered in zip(rows.accumulators, accumulators, strict=True):
            array.index_copy_(0, target, gathered)

    def _settled(self, touched_S1: Tensor) -> Tensor:
        """Times of the last touch, resolved for rows that were initialised in this chunk."""
        started = self.chunk.before.index_select(0, (-1 - touched_S1).clamp(min=0).view(-1))
        return torch.where(touched_S1 < 0, started.view(-1, 1), touched_S1)

    def _finish(self, p: Tensor) -> None:
        chunk = self.chunk
        chunk.probability.index_copy_(0, chunk.cursor, p.float())
        chunk.cursor.add_(1)


def _square(g: Tensor) -> Tensor:
    """Sum of squares in the type of the gradient: infinite on overflow, NaN if g contains NaN."""
    flat = g.detach().reshape(-1)
    return torch.dot(flat, flat)


def _finite(squares: tuple[Tensor, Tensor]) -> Tensor:
    """Whether both are finite; the maximum propagates NaN, and NaN < inf is False."""
    return torch.maximum(*squares) < torch.inf
