"""How belief changes: the base rules, and the perturbation they are applied under."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stream_ctr.config.ranges import Number

BaseRule = Literal["sgd", "adagrad", "rmsprop", "adam", "nadam", "radam"]
FirstOrderRule = Literal["rows", "sgd", "adagrad", "rmsprop", "adam", "nadam", "radam", "ftrl"]


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """Helen (eq. 7 to 10), SAM, ASAM or nothing over base rules for rows, first-order and dense weights.

    A step is one event of a stream, or one batch of the batch protocol. The defaults are what learns best, at
    batch size 1, on rows that were not used to choose them: each event a second time later, without its own
    traces. ``method = "helen"`` with the other defaults is the published form.
    """

    method: Literal["auto", "base", "sam", "asam", "helen", "revisit"] = "auto"
    """auto: revisit where the rules below allow it, else base; base in the batch protocol. base: one pass.
    sam: one radius for all parameters. asam: the same, with each weight's own scale. helen: a radius for each
    embedding row. revisit: one pass, and each event a second time later, where its own traces in its rows are
    taken out."""
    perturb: Literal["both", "embedding", "dense"] = "both"
    """helen: which parameters are perturbed; embedding is Helen-m (with xi = 0 Helen-b)."""
    rho: Number = 0.001
    """helen: radius of the embedding rows, rho_jk = rho * max(N_jk / M_j, xi). sam, asam: of everything."""
    rho_dense: Number = 0.001
    """helen: radius of the dense parameters."""
    xi: Number = 0.0
    """helen: lower bound of the frequency ratio, 0 to 1."""
    eta: Number = 0.01
    """asam: added to a weight's size, so that a weight of 0 is perturbed too."""
    counts: Literal["stream", "batch", "fixed"] = "stream"
    """helen: what N and M count. stream: as features.counts says, running or decayed. batch: the events of
    one step alone. fixed: the whole dataset, known beforehand (batch protocol only)."""
    row_norm: Literal["row", "table"] = "row"
    """Norm in eq. 8: of the row's own gradient (paper), or of the field's whole table."""
    dense_norm: Literal["dense", "global"] = "dense"
    """Norm of the dense perturbation: over the dense gradient (paper), or over all gradients."""
    revisit_after: int = 5_000
    """revisit: learned events until an event's second turn; so many are kept in memory and checkpoints."""
    revisit_rows: Number = 0.5
    """revisit: share of the event's old step of each row that its new step replaces, 0 to 1."""
    revisit_dense: Number = 0.5
    """revisit: share of the second gradient that the dense parameters learn from; 0: they do not."""
    warm_up_events: int = 0
    """Radii grow linearly from 0 over this many steps."""
    rows: Literal["lazy", "dense"] = "lazy"
    """lazy: a step touches its events' rows alone. dense: every row steps each time, as the papers' batch
    training does (batch protocol only)."""
    row_rule: BaseRule = "adagrad"
    """Base rule of the embedding rows; each row has a step count of its own."""
    row_rate: Number = 0.025
    """Learning rate of the rows."""
    row_initial: Number = 1e-3
    """adagrad: sum of squared gradients that a row starts with; damps its first steps."""
    first_order_rule: FirstOrderRule = "rows"
    """Base rule of the first-order (wide) weights, where the model has them; rows: as the embedding rows."""
    first_order_rate: Number = 0.05
    """Learning rate of first_order_rule, unless that is rows; FTRL's alpha."""
    first_order_initial: Number = 1e-3
    """adagrad as first_order_rule: sum of squared gradients that a weight starts with."""
    ftrl_beta: Number = 1.0
    """ftrl: damps the first steps; the rate of a weight is alpha / (beta + sqrt(sum of squares))."""
    ftrl_l1: Number = 0.0
    """ftrl: L1 strength; weights with little evidence are exactly 0."""
    ftrl_l2: Number = 0.0
    """ftrl: L2 strength of the rule itself, beside ``l2``."""
    dense_rule: BaseRule = "adagrad"
    """Base rule of the dense parameters."""
    dense_rate: Number = 0.003
    """Learning rate of the dense parameters."""
    dense_initial: Number = 1e-4
    """adagrad: sum of squared gradients that the dense parameters start with."""
    dense_idle: Literal["step", "skip"] = "step"
    """What a dense weight does whose gradient is exactly 0, as that of a unit that ReLU has shut. step: what
    its rule says, so that Adam's kind goes on by the moments of earlier events. skip: nothing, and its
    moments stay as they are, which saves moving them. adagrad and sgd do nothing either way."""
    moments: Literal["float32", "bfloat16"] = "float32"
    """How accumulators are kept, those of rows and of dense weights. bfloat16: in half the memory, with
    stochastic rounding; calculated with in float32."""
    l2: Number = 0.0
    """Lazy L2 of the rows: once a touch, scaled by the steps since the row's last touch."""
