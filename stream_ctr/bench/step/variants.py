"""Variants that move fewer bytes per step: base rules, 16-bit accumulators and skipped idle weights.

All variants learn the same rows and take turns chunk by chunk. Each is compared with the default optimizer:
in time by chunk and in loss by event.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.bench.optimizers.paired import FEWEST_BLOCKS, Interval, block_interval
from stream_ctr.bench.step.entries import COMPILED, DEFAULT, HELEN, Entry, model_name, network
from stream_ctr.bench.step.measure import CHUNK, StepBench
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.learners.compiled.learner import CompiledLearner

METHODS: Final = {"revisit": DEFAULT, "helen": HELEN, "base": replace(HELEN, method="base")}
RULES: Final[dict[str, OptimizerConfig]] = {
    "adagrad": OptimizerConfig(),
    "adam": OptimizerConfig(dense_rule="adam", dense_rate=1e-4, dense_initial=0.0),
    "sgd": OptimizerConfig(dense_rule="sgd", dense_rate=0.01),
}
"""Rules for the dense weights, at rates suited to batch size 1; rows keep the default's AdaGrad."""
BLOCK: Final = 4 * CHUNK
"""Consecutive events whose mean difference counts as one observation."""


@dataclass(frozen=True)
class Variant:
    """One combination of method, dense rule, accumulator precision and idle policy."""

    method: str
    rule: str
    moments: str
    idle: str

    @property
    def name(self) -> str:
        """Name in the tables, such as ``helen-adam bfloat16 skip``.

        >>> [Variant(*each, "float32", "skip").name for each in (("revisit", "adagrad"), ("helen", "adam"))]
        ['revisit skip', 'helen-adam skip']
        """
        rule = "" if self.rule == "adagrad" else f"-{self.rule}"
        parts = [f"{self.method}{rule}"]
        parts += [self.moments] if self.moments != "float32" else []
        parts += [self.idle] if self.idle != "step" else []
        return " ".join(parts)

    def config(self) -> OptimizerConfig:
        """The optimizer configuration of the variant."""
        rule, method = RULES[self.rule], METHODS[self.method]
        return replace(
            method,
            dense_rule=rule.dense_rule,
            dense_rate=rule.dense_rate,
            dense_initial=rule.dense_initial,
            moments="bfloat16" if self.moments == "bfloat16" else "float32",
            dense_idle="skip" if self.idle == "skip" else "step",
        )


def variants() -> list[Variant]:
    """The default, then all valid combinations: Adam has no second turns, and only Adam has idle steps."""
    return [
        Variant(method, rule, moments, idle)
        for method in METHODS
        for rule in RULES
        for moments in (("float32",) if rule == "sgd" else ("float32", "bfloat16"))
        for idle in (("step", "skip") if rule == "adam" else ("step",))
        if (method, rule) != ("revisit", "adam")
    ]


def variant_entries(model: ModelConfig, events: int) -> list[Entry]:
    """One entry per variant, timed from the default's first second turn on."""
    return [
        Entry(
            COMPILED,
            model_name(model),
            variant.name,
            events,
            partial(network, CompiledLearner, model, variant.config()),
            rules=f"adagrad/{variant.rule}",
            untimed=DEFAULT.revisit_after,
        )
        for variant in variants()
    ]


def against_default(bench: StepBench, entry: Entry, tail_from: int) -> dict[str, Any]:
    """Time ratio of ``entry`` to the default, and its loss from event ``tail_from`` on minus the default's.

    The 95 % interval is over blocks of events; null if there are too few events.
    """
    first = next(each for each in bench.entries if each.model == entry.model)
    both = min(len(first.seconds), len(entry.seconds))
    ratio = float(np.median(np.divide(entry.seconds[:both], first.seconds[:both]))) if both else None
    loss, default = (_losses(each, bench.label)[tail_from:] for each in (entry, first))
    interval: Interval | None = None
    if entry is not first and len(loss) // BLOCK >= FEWEST_BLOCKS:
        interval = block_interval(loss - default, BLOCK)
    return {
        "ratio_to_default": None if ratio is None else round(ratio, 3),
        "tail_from": tail_from,
        "log_loss_tail": round(float(loss.mean()), 5),
        "difference": None if interval is None else round(interval.mean, 5),
        "difference_low": None if interval is None else round(interval.low, 5),
        "difference_high": None if interval is None else round(interval.high, 5),
    }


def _losses(entry: Entry, label: NDArray[np.float32]) -> NDArray[np.float64]:
    p = np.clip(np.concatenate(entry.probabilities).astype(np.float64), 1e-9, 1 - 1e-9)
    losses: NDArray[np.float64] = np.where(label > 0.5, -np.log(p), -np.log1p(-p))
    return losses
