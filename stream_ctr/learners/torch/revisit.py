"""Replay of past events by automatic differentiation; see :mod:`stream_ctr.learners.revisit`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.learners.revisit import PastEvents
from stream_ctr.learners.torch.step import Events, TorchStep
from stream_ctr.optim.moments import SECOND_TURN
from stream_ctr.optim.rules import SGD, AdaGrad, Rule


class Replays:
    """Records the events learned by a :class:`~stream_ctr.learners.torch.step.TorchStep` and replays them."""

    def __init__(self, step: TorchStep, optimizer: OptimizerConfig, slot_field: Tensor) -> None:
        """``slot_field`` [S] is the field of each slot."""
        self._step = step
        self._slot_field = slot_field
        self._rows_share, self._dense_share = optimizer.revisit_rows, optimizer.revisit_dense
        after = optimizer.revisit_after if optimizer.method == "revisit" else 0
        kind = step.dense[:0].cpu().numpy().dtype.type
        self.past = PastEvents(after, len(slot_field), step.network.row_width, kind)

    @property
    def active(self) -> bool:
        """Whether events are replayed."""
        return self.past.after > 0

    def record(
        self, rows: NDArray[np.int64], label: float, weight: float, index: Tensor, before_ND: Tensor
    ) -> None:
        """Record the event just learned and its rows [S]; rows ``index`` [N] held ``before_ND`` before."""
        past, step = self.past, self._step
        at = (step.learned - 1) % past.after
        past.rows[at], past.label[at], past.weight[at] = rows, label, weight
        past.trace[at] = 0.0
        past.trace[at, rows >= 0] = (step.rows.weight.index_select(0, index) - before_ND).cpu().numpy()

    def replay(self) -> None:
        """Replay the event that is due, if there is one and its gradients are finite."""
        past, step, rows = self.past, self._step, self._step.rows
        number = step.learned - past.after
        if number < 0:
            return
        at = number % past.after
        index_S = torch.from_numpy(past.rows[at]).to(self._slot_field.device)
        # a row that was initialised since then belongs to another key
        present_S = (index_S >= 0) & (rows.touched[index_S.clamp(min=0), 0] <= number)
        index, field = index_S[present_S], self._slot_field[present_S]
        trace_ND = torch.from_numpy(past.trace[at]).to(index.device)[present_S]
        x_ND = rows.weight.index_select(0, index)
        single = field.tolist() == list(range(step.fields))
        events = Events(1, index, field, x_ND.new_zeros(len(index)), None, field, single)
        label, weight = float(past.label[at]), float(past.weight[at])
        _, g, g_ND = step.gradients(step.leaves, (x_ND - trace_ND).detach(), events, label, weight)
        if not torch.isfinite((g * g).sum() + (g_ND * g_ND).sum()):
            return
        accumulators = step.kept.decoded([array.index_select(0, index) for array in rows.accumulators])
        new_ND = settled_step(step.row_rule, g_ND, accumulators)
        rows.weight.index_copy_(0, index, x_ND + self._rows_share * (new_ND - trace_ND))
        if self._dense_share > 0.0:
            g *= self._dense_share
            step.update_dense(g, SECOND_TURN)


def settled_step(rule: Rule, gradient: Tensor, accumulators: list[Tensor]) -> Tensor:
    """The step of AdaGrad or SGD with unchanged accumulators."""
    if isinstance(rule, AdaGrad):
        return -rule.rate * gradient / (accumulators[0].sqrt() + rule.epsilon)
    assert isinstance(rule, SGD)  # check_optimizer allows no other rule
    return -rule.rate * gradient
