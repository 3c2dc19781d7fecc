"""The flagship's step with ``torch.compile``: the fastest form of the step in torch alone.

Both passes, the perturbation and the optimizers of dense weights and rows are one traced graph, which fuses
all arithmetic except matrix products. Rows are gathered before and scattered after it, so the cost is
independent of the table size. The step equals the torch learner's, without multi-valued fields.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stream_ctr.batch import Batch
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.learners.base import LearnResult
from stream_ctr.learners.torch.row_table import RowTable
from stream_ctr.models.build import build_network
from stream_ctr.models.initial_weights import row_values
from stream_ctr.optim.rules import build_rule

Event = Callable[[Tensor, list[Tensor], Tensor, list[Tensor], Tensor, Tensor, Tensor], Tensor]


class CompiledTorch:
    """Learns labelled events with one slot per field as the torch learner does; for benchmarks only."""

    def __init__(self, model: ModelConfig, optimizer: OptimizerConfig, fields: int) -> None:
        self._model, self._optimizer, self._fields = model, optimizer, fields
        self._seed = LearnerConfig().seed
        self._network = build_network(model, fields)
        self._row_rule = build_rule(optimizer.row_rule, optimizer.row_rate, optimizer.row_initial)
        self._dense_rule = build_rule(optimizer.dense_rule, optimizer.dense_rate, optimizer.dense_initial)
        layout = self._network.layout
        # [1, P]: the rules take the step number as a tensor [n, 1]; a Python number would be a new constant
        # at every event and trigger a new compilation.
        self._dense = torch.from_numpy(layout.initial(self._seed)).view(1, -1)
        self._dense_state = [
            torch.full_like(self._dense, self._dense_rule.initial) for _ in self._dense_rule.accumulators
        ]
        self._rows = RowTable(
            self._network.row_width, self._row_rule, fields, torch.device("cpu"), torch.float32
        )
        self._learned = 0

    @cached_property
    def _event(self) -> Event:
        compiled: Event = torch.compile(self._learn_event, fullgraph=True, dynamic=False)
        return compiled

    def learn(self, batch: Batch) -> LearnResult:
        """Predict and learn each event, in order."""
        changes, count, table = batch.changes, len(batch), self._rows
        result = LearnResult(np.zeros(count, np.float32), np.zeros(count, np.bool_), np.zeros(count))
        if len(changes.row):
            table.reserve(int(changes.row.max()) + 1)
        scale = self._model.embedding_scale
        values = torch.from_numpy(
            row_values(self._seed, changes.field, changes.key, self._network.row_width, scale)
        )
        changed, rows = torch.from_numpy(changes.row), torch.from_numpy(batch.rows)
        ratio, label = torch.from_numpy(batch.ratio), torch.from_numpy(batch.label)
        first = np.searchsorted(changes.event, np.arange(count + 1)).tolist()
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        try:
            for b in range(count):
                began = time.perf_counter()
                low, high = first[b], first[b + 1]
                if high > low:
                    table.initialise(changed[low:high], values[low:high], self._learned)
                result.probability[b] = self._learn(rows[b], ratio[b], label[b])
                result.seconds[b] = time.perf_counter() - began
        finally:
            torch.set_flush_denormal(False)
        return result

    def _learn(self, rows_S: Tensor, ratio_S: Tensor, label: Tensor) -> float:
        table = self._rows
        self._learned += 1
        x_SD = table.weight.index_select(0, rows_S)
        of_rows = [array.index_select(0, rows_S) for array in table.accumulators]
        steps = table.step.index_select(0, rows_S).add_(1)
        table.step.index_copy_(0, rows_S, steps)
        now = torch.full((1, 1), self._learned, dtype=torch.int64)
        # Ratios and label are one tensor to minimise the number of graph inputs that are checked.
        numbers = torch.cat((ratio_S, label.view(1)))
        p = self._event(
            self._dense, self._dense_state, x_SD, of_rows, numbers, steps, now
        )  # updates the first four arguments in place
        table.weight.index_copy_(0, rows_S, x_SD)
        for array, gathered in zip(table.accumulators, of_rows, strict=True):
            array.index_copy_(0, rows_S, gathered)
        return float(p)

    def _learn_event(
        self,
        dense: Tensor,
        dense_state: list[Tensor],
        x_SD: Tensor,
        of_rows: list[Tensor],
        numbers: Tensor,
        steps: Tensor,
        now: Tensor,
    ) -> Tensor:
        """Learn one event in place: dense [1, P], rows [S, D]; ``numbers``: N / M by row, then the label."""
        ratio_S, label = numbers[:-1], numbers[-1]
        optimizer = self._optimizer

        def loss(flat: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            z = self._network.logit(self._network.layout.views(flat), x).squeeze()
            return functional.softplus(z) - label * z, z

        gradient = torch.func.grad(loss, argnums=(0, 1), has_aux=True)
        (g, g_SD), z = gradient(dense.view(-1), x_SD)
        p = torch.sigmoid(z)
        if optimizer.method == "helen":
            # eps = rho * g / |g|, rows with rho_jk = rho * max(N / M, xi) each (Helen, eq. 7 and 8)
            c = optimizer.rho_dense * (g * g).sum().rsqrt()
            square_S1 = (g_SD * g_SD).sum(1, keepdim=True)
            radius_S1 = optimizer.rho * ratio_S.clamp(min=optimizer.xi).unsqueeze(1)
            c_S1 = torch.where(square_S1 > 0.0, radius_S1 * square_S1.rsqrt(), 0.0)
            (g, g_SD), _ = gradient(dense.view(-1) + c * g, x_SD + c_S1 * g_SD)
        self._dense_rule.apply(dense, g.view(1, -1), dense_state, now)
        self._row_rule.apply(x_SD, g_SD, of_rows, steps)
        return p
