"""The step of one event as a few fused Triton kernels, for the graph learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stream_ctr.config.label_policy import LabelLoss
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.learners.compiled.workspace import plan_method
from stream_ctr.learners.cuda.fused.head_kernel import head
from stream_ctr.learners.cuda.fused.pass_kernels import backward, forward, gather
from stream_ctr.learners.cuda.fused.plan import (
    MOST_NUMBERS,
    Blocks,
    PassMemory,
    as_indices,
    plan_fields,
    plan_network,
    plan_tiles,
    power_of_2,
    rule_settings,
)
from stream_ctr.learners.cuda.fused.update_kernels import ascend, finish, update_dense, update_rows
from stream_ctr.learners.cuda.step import CursorStep
from stream_ctr.models.build import Network

Launch = Callable[[Any, int, Mapping[str, Any]], None]
"""Start a kernel with a number of programs and named arguments."""
Pooling = Literal["mean", "sum"]


def launch(kernel: Any, programs: int, arguments: Mapping[str, Any]) -> None:
    """Start a Triton kernel on the current stream."""
    kernel[(programs,)](**arguments)


class FusedStep(CursorStep):
    """The step of :class:`CursorStep` for the dnn family: same state, chunk and cursor, but fused kernels.

    Each layer is one kernel per direction, where :class:`CursorStep` records one operation per torch call.
    Gradients of dense parameters are never stored, and a non-finite update is not applied. With H hidden
    layers, skip logits and two passes a step has 4 H + 9 kernels; scoring an event takes H + 3. Results are
    reproducible bit for bit, because no sum uses atomic additions.
    """

    def __init__(
        self,
        model: ModelConfig,
        network: Network,
        optimizer: OptimizerConfig,
        seed: int,
        slot_field: Tensor,
        fields: int,
        dtype: torch.dtype,
        labels: LabelLoss | None = None,
        blocks: Blocks | None = None,
        start: Launch = launch,
    ) -> None:
        """``network`` was built from ``model``; the fused step must support ``model`` and ``optimizer``."""
        super().__init__(network, optimizer, model.pooling, seed, slot_field, fields, dtype, labels)
        self._start = start
        self._blocks = blocks or Blocks()
        device = slot_field.device
        self._plan = plan_network(model, network.layout, fields)
        self._first, self._second = (PassMemory(self._plan, device, dtype) for _ in range(2))
        self._tiles = as_indices(plan_tiles(self._plan, self._blocks), device)
        slots = slot_field.tolist()
        self._field_slots = as_indices(plan_fields(slots, fields), device)
        self._event_state = torch.zeros(3 + len(slots), device=device, dtype=torch.int64)
        self._members = torch.zeros(fields, device=device, dtype=dtype)
        self._state = torch.zeros(4, device=device, dtype=torch.float64)
        kind = np.float64 if dtype == torch.float64 else np.float32
        self._method = plan_method(optimizer, kind, labels or LabelLoss())
        self._slope, self._mean = model.slope, model.pooling == "mean"
        self._dense_settings = rule_settings(optimizer.dense_rule, optimizer.dense_rate)
        self._dense_every = optimizer.dense_rule == "adam" and optimizer.dense_idle == "step"
        self._row_settings = rule_settings(optimizer.row_rule, optimizer.row_rate)
        self._passes = 2 if self._shift.active else 1

    def learn_event(self, full: bool) -> None:
        """See :class:`CursorStep`; ``full`` makes no difference here."""
        self._gather()
        self._forward_pass(self._first)
        self._head_pass(self._first, learns=True)
        self._backward_pass(self._first)
        run = self._first
        if self._passes == 2:
            self._perturb_rows_and_dense()
            run = self._second
            self._forward_pass(run)
            self._head_pass(run, learns=True)
            self._backward_pass(run)
        self._finish_event(run)
        self._update_all(run)

    def predict_event(self, full: bool) -> None:
        """See :class:`CursorStep`; ``full`` makes no difference here."""
        self._gather()
        self._forward_pass(self._first)
        self._head_pass(self._first, learns=False)

    def _row_shape(self) -> dict[str, Any]:
        """Arguments of every kernel that iterates over the rows of the fields."""
        width = self.rows.weight.shape[1]
        k_block = power_of_2(width)
        room = max(1, min(self._blocks.fields, MOST_NUMBERS // k_block))
        return {
            "fields": self.fields,
            "width": width,
            "f_block": min(power_of_2(self.fields), room),
            "k_block": k_block,
            "mean": self._mean,
        }

    def _slots(self) -> dict[str, Any]:
        return {
            "field_slots": self._field_slots,
            "most": self._field_slots.shape[1],
            "slots": len(self._slot_field),
            "spare": self.spare,
        }

    def _gather(self) -> None:
        chunk = self.chunk
        shape = self._row_shape() | {"f_block": min(power_of_2(self.fields), 8)}
        arguments = {
            "cursor": chunk.cursor,
            "learned": chunk.learned,
            "rows": chunk.rows,
            "before": chunk.before,
            "table": self.rows.weight,
            "event": self._event_state,
            "members": self._members,
            "x": self._first.x,
            "s_block": power_of_2(len(self._slot_field)),
        }
        self._start(gather, -(-self.fields // shape["f_block"]), arguments | shape | self._slots())

    def _forward_pass(self, run: PassMemory) -> None:
        """Forward: from x_0 to the units of all layers."""
        plan, blocks, old = self._plan, self._blocks, self._first
        for i in range(plan.layers + (1 if plan.skips else 0)):
            here, above = slice(plan.starts[i], None), slice(plan.starts[i + 1], None)
            top = i == plan.layers
            rows, scales = 0 if top else plan.width(i + 1), plan.scale_rows(i)
            tower, bias = (0, 0) if top else plan.towers[i]
            scale, beta = plan.scales[i - 1] if scales else (0, 0)
            arguments = {
                "w": self.dense,
                "x": run.x[here],
                "above": run.x if top else run.x[above],
                "inner": run.inner[here],
                "x_old": old.x[here],
                "d_old": old.d if top else old.d[above],
                "e_old": old.e[here],
                "state": self._state,
                "norm": run.norms[i:],
                "size": plan.width(i),
                "tower": tower,
                "bias": bias,
                "rows": rows,
                "scale": scale,
                "beta": beta,
                "scales": scales,
                "second": run is self._second,
                "o_block": blocks.up_rows,
                "k_block": min(blocks.up_columns, power_of_2(plan.width(i))),
            }
            self._start(forward, sum(-(-each // blocks.up_rows) for each in (rows, scales)), arguments)

    def _head_pass(self, run: PassMemory, learns: bool) -> None:
        """Head: the logit, and back to the last layer."""
        plan, old, method = self._plan, self._first, self._method
        policy = {"fast": 1, "fnw": 2}.get(self._labels.policy, 0 if method.keep == 1.0 else 3)
        widest = max(plan.width(i) for i in range(1, plan.layers + 1)) if plan.layers else plan.width(0)
        arguments = {
            **{name: getattr(run, name) for name in ("x", "inner", "t", "d", "e", "g", "z")},
            "w": self.dense,
            "x_old": old.x,
            "t_old": old.t,
            "z_old": old.z,
            "state": self._state,
            "sums": run.norms,
            "event": self._event_state,
            "numbers": self.chunk.numbers,
            "probability": self.chunk.probability,
            "cursor": self.chunk.cursor,
            "starts": plan.starts,
            "skips": plan.skips,
            "layers": plan.layers,
            "output": plan.output[0],
            "bias": plan.output[1],
            "slots": len(self._slot_field),
            "slope": self._slope,
            "per_unit": plan.per_unit,
            "policy": policy,
            "keep": method.keep,
            "second": run is self._second,
            "learns": learns,
            "block": min(self._blocks.units, power_of_2(widest)),
        }
        self._start(head, 1, arguments)

    def _backward_pass(self, run: PassMemory) -> None:
        """Backward: from the gradient of the last layer to that at x_0."""
        plan, blocks, old = self._plan, self._blocks, self._first
        for i in range(plan.layers - 1, -1, -1):
            here, above = slice(plan.starts[i], None), slice(plan.starts[i + 1], None)
            arguments = {
                "w": self.dense,
                "d": run.d[above],
                "x": run.x[here],
                "g": run.g[here],
                "below": run.d[here],
                "d_old": old.d[above],
                "x_old": old.x[here],
                "state": self._state,
                "norm": run.norms[plan.layers + 1 + i :],
                "size": plan.width(i),
                "tower": plan.towers[i][0],
                "rows": plan.width(i + 1),
                "second": run is self._second,
                "lowest": i == 0,
                "skips": len(plan.skips) > 0,
                "o_block": min(blocks.down_rows, power_of_2(plan.width(i + 1))),
                "k_block": blocks.down_columns,
            }
            self._start(backward, -(-plan.width(i) // blocks.down_columns), arguments)

    def _perturb_rows_and_dense(self) -> None:
        method, run = self._method, self._first
        arguments = {
            "x": run.x,
            "g": run.g,
            "x_second": self._second.x,
            "sums": run.norms,
            "state": self._state,
            "event": self._event_state,
            "numbers": self.chunk.numbers,
            "members": self._members,
            "rho_rows": method.rho_rows,
            "rho_dense": method.rho_dense,
            "xi": method.xi,
            "warm_up": method.warm_up,
            "sam": method.sam,
            "table_norm": method.table_norm,
            "global_norm": method.global_norm,
            "smallest": method.smallest,
            "largest": method.largest,
            "layers": self._plan.layers,
        }
        self._start(ascend, 1, arguments | self._row_shape() | self._slots())

    def _finish_event(self, run: PassMemory) -> None:
        chunk, settings = self.chunk, self._dense_settings
        arguments = {
            "sums": run.norms,
            "g": run.g,
            "members": self._members,
            "state": self._state,
            "event": self._event_state,
            "learned": chunk.learned,
            "cursor": chunk.cursor,
            "skipped": chunk.skipped,
            "largest": self._method.largest,
            "second": self._passes == 2,
            **{key: settings[key] for key in ("rule", "rate", "epsilon", "log_beta_1", "log_beta_2")},
            "layers": self._plan.layers,
        }
        self._start(finish, 1, arguments | self._row_shape())

    def _update_all(self, run: PassMemory) -> None:
        """Steps of the base rules for all dense parameters and the rows of the event."""
        largest = self._method.largest
        shape, settings = self._row_shape(), self._dense_settings
        moments = {"mean": self.dense, "square": self.dense} | self.dense_state
        dense = {
            "w": self.dense,
            "tiles": self._tiles,
            "run": run.all,
            "state": self._state,
            "event": self._event_state,
            "largest": largest,
            "every": self._dense_every,
            **{key: settings[key] for key in ("rule", "beta_1", "beta_2")},
            "o_block": self._blocks.tile_rows,
            "k_block": self._blocks.tile_columns,
        }
        self._start(update_dense, len(self._tiles), dense | moments)
        rows, weight = self.rows, self.rows.weight
        named = dict(zip(rows.names, rows.accumulators, strict=True))
        by_row = {
            "w": weight,
            "step": rows.step,
            "touched": rows.touched,
            "before": self.chunk.before,
            "g": run.g,
            "members": self._members,
            "slot_field": self._slot_field,
            "event": self._event_state,
            "width": shape["width"],
            "spare": self.spare,
            "l2": self._l2,
            "largest": largest,
            "every": True,
            "shared": self._mean,
            "k_block": shape["k_block"],
            **self._row_settings,
        }
        moments = {"mean": weight, "square": weight} | named
        self._start(update_rows, len(self._slot_field), by_row | moments)
