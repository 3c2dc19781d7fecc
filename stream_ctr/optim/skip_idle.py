"""Dense weights without a gradient: half of the units are shut by their ReLU at any event.

AdaGrad and SGD leave such a weight alone. Adam and its kind go on moving it by the moments of earlier events,
which means that every weight and moment of the network is read and written at every event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.optim.rules import SGD, AdaGrad, Rule, build_rule


class SkipIdle:
    """Any rule, for weights whose gradient is not 0: the others and their accumulators keep every bit.

    An idle weight's moments neither decay nor move it; steps are counted for all weights together.
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


def build_dense_rule(config: OptimizerConfig) -> Rule:
    """The rule of the dense weights, which leaves idle ones alone where that is asked for."""
    rule = build_rule(config.dense_rule, config.dense_rate, config.dense_initial)
    if config.dense_idle == "step" or isinstance(rule, SGD | AdaGrad):
        return rule
    return SkipIdle(rule)
