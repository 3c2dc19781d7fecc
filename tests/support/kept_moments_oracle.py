"""The slow learner in float64 with accumulators in 16 bits, and with idle dense weights left alone."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.state.state import Json
from tests.support.optimizer_oracle import Example, Oracle
from tests.support.splitmix64 import splitmix64

LOWER = ("exp_avg",)
UPPER = ("sum", "exp_avg_sq")
"""What torch.optim calls first and second moments."""


def rounded(value: float, r: int) -> float:
    """The float32 number nearest to ``value``, its bits raised by r and cut to the upper 16."""
    bits = struct.unpack("<I", struct.pack("<f", value))[0] + r
    return float(struct.unpack("<f", struct.pack("<I", (bits >> 16) << 16))[0])


class KeptOracle(Oracle):
    """As :class:`Oracle`; ``moments`` and ``dense_idle`` of the optimizer count."""

    def __init__(
        self,
        model: ModelConfig,
        optimizer: OptimizerConfig,
        slot_field: Sequence[int],
        seed: int,
        layout: Json,
        dense: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    ) -> None:
        super().__init__(model, optimizer, slot_field, seed, layout, dense)
        self.place, begin = {}, 0
        for dimensions in (2, 1):  # matrices first, each parameter from a multiple of 16 on
            for name, w in self.p.items():
                if w.dim() == dimensions:
                    self.place[name] = begin
                    begin += (w.numel() + 15) // 16 * 16
        for w in self.p.values():
            self.round_start(self.dense_rule, w)

    @property
    def half(self) -> bool:
        return self.optimizer.moments == "bfloat16"

    def start_row(self, row: int, values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
        super().start_row(row, values)
        self.round_start(self.row_rule[row], self.row[row])

    def step(self, examples: list[Example]) -> None:
        super().step(examples)
        self.round_dense(0)
        for row in {row for e in examples for row in e.rows}:
            self.round(self.row_rule[row], self.row[row], row * self.model.embedding, 1)

    def revisit(self, number: int) -> None:
        super().revisit(number)
        if self.optimizer.revisit_dense > 0.0:
            self.round_dense(2)

    def step_dense(self) -> None:
        """The dense rule's step; weights with a gradient of 0 and their moments stay, if they are to."""
        if self.optimizer.dense_idle == "step":
            self.dense_rule.step()
            return
        state = {w: {k: v.clone() for k, v in self.dense_rule.state[w].items()} for w in self.p.values()}
        before = [w.detach().clone() for w in self.p.values()]
        self.dense_rule.step()
        with torch.no_grad():
            for w, old in zip(self.p.values(), before, strict=True):
                assert w.grad is not None
                idle = w.grad == 0.0
                w.copy_(torch.where(idle, old, w))
                for k, v in self.dense_rule.state[w].items():
                    if k != "step":
                        v.copy_(torch.where(idle, state[w].get(k, torch.zeros_like(v)), v))

    def round_dense(self, kind: int) -> None:
        for name, w in self.p.items():
            self.round(self.dense_rule, w, self.place[name], kind)

    def round_start(self, rule: torch.optim.Optimizer, w: Tensor) -> None:
        for name, value in rule.state[w].items():
            if self.half and name in UPPER:
                for k, each in enumerate(value.ravel().tolist()):
                    value.view(-1)[k] = rounded(each, 2**15)

    def round(self, rule: torch.optim.Optimizer, w: Tensor, first: int, kind: int) -> None:
        if not self.half:
            return
        key = splitmix64(splitmix64(splitmix64(self.seed) ^ self.learned) ^ kind) >> 32
        for name, value in rule.state[w].items():
            if name not in (*LOWER, *UPPER):
                continue
            for k, each in enumerate(value.ravel().tolist()):
                weyl = (key + (first + k) * 0x9E3779B1) % 2**32
                value.view(-1)[k] = rounded(each, weyl >> 16 if name in UPPER else weyl % 2**16)
