"""The table [optimizer]: perturbation, base rules and learning rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from stream_ctr.config.ranges import Number

BaseRule = Literal["sgd", "adagrad", "rmsprop", "adam", "nadam", "radam"]
FirstOrderRule = Literal["rows", "sgd", "adagrad", "rmsprop", "adam", "nadam", "radam", "ftrl"]
RULE_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "row_rule": get_args(BaseRule),
    "dense_rule": get_args(BaseRule),
    "first_order_rule": get_args(FirstOrderRule),
}
"""Built-in rules by key; other packages can add more."""


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """Helen (eq. 7 to 10), SAM, ASAM or no perturbation, over base rules for each kind of weight.

    A step is one event of a stream, or one batch of the batch protocol. The default, revisit, learned best at
    batch size 1 on rows that were not used to choose it: it replays each event once later, removing the
    update that the event had caused before. ``method = "helen"`` with the other defaults is the published
    form.
    """

    method: Literal["auto", "base", "sam", "asam", "helen", "revisit"] = "auto"
    """auto: revisit if the rules below allow it, else base; base in the batch protocol. base: one pass. sam:
    one radius for all parameters. asam: the same, scaled by the size of each weight. helen: a radius for each
    embedding row. revisit: one pass, and each event is replayed once later, after removing its earlier update
    from its rows."""
    perturb: Literal["both", "embedding", "dense"] = "both"
    """helen: parameters to perturb; embedding is Helen-m (with xi = 0: Helen-b)."""
    rho: Number = 0.001
    """helen: radius of the embedding rows, rho_jk = rho * max(N_jk / M_j, xi). sam, asam: of
    all parameters."""
    rho_dense: Number = 0.001
    """helen: radius of the dense parameters."""
    xi: Number = 0.0
    """helen: lower bound of the frequency ratio, 0 to 1."""
    eta: Number = 0.01
    """asam: added to a weight's absolute value, so that a weight of 0 is perturbed, too."""
    counts: Literal["stream", "batch", "fixed"] = "stream"
    """helen: what N and M count. stream: the stream, running or decayed (features.counts). batch: the events
    of the current step. fixed: the whole dataset, counted in advance (batch protocol only)."""
    row_norm: Literal["row", "table"] = "row"
    """Norm in eq. 8: of the row's own gradient (as published), or of the field's whole table."""
    dense_norm: Literal["dense", "global"] = "dense"
    """Norm of the dense perturbation: of the dense gradient (as published), or of all gradients (global)."""
    revisit_after: int = 5_000
    """revisit: events between an event and its replay; this many are kept in memory and in checkpoints."""
    revisit_rows: Number = 0.5
    """revisit: share of an event's old step of each row that its new step replaces, 0 to 1."""
    revisit_dense: Number = 0.5
    """revisit: share of the replayed gradient that the dense parameters learn, 0 to 1; 0: none."""
    warm_up_events: int = 0
    """Steps over which the radii grow linearly from 0."""
    rows: Literal["lazy", "dense"] = "lazy"
    """lazy: a step updates only the rows of its events. dense: every step updates every row, like the papers'
    batch training (batch protocol only)."""
    row_rule: str = "adagrad"
    """Base rule of the embedding rows: sgd, adagrad, rmsprop, adam, nadam, radam, or one that another package
    adds. Each row has its own step count."""
    row_rate: Number = 0.025
    """Learning rate of the rows."""
    row_initial: Number = 1e-3
    """adagrad: initial sum of squared gradients of a row; damps its first steps."""
    first_order_rule: str = "rows"
    """Base rule of the first-order (wide) weights, if the model has them: a rule as for the rows, or ftrl;
    rows: that of the embedding rows."""
    first_order_rate: Number = 0.05
    """Learning rate of first_order_rule, unless that is rows; alpha of FTRL."""
    first_order_initial: Number = 1e-3
    """adagrad as first_order_rule: initial sum of squared gradients of a weight."""
    ftrl_beta: Number = 1.0
    """ftrl: damps the first steps; the rate of a weight is alpha / (beta + sqrt(sum of squares))."""
    ftrl_l1: Number = 0.0
    """ftrl: L1 strength; weights with little evidence are exactly 0."""
    ftrl_l2: Number = 0.0
    """ftrl: L2 strength of the rule itself, in addition to ``l2``."""
    dense_rule: str = "adagrad"
    """Base rule of the dense parameters."""
    dense_rate: Number = 0.003
    """Learning rate of the dense parameters."""
    dense_initial: Number = 1e-4
    """adagrad: initial sum of squared gradients of the dense parameters."""
    dense_idle: Literal["step", "skip"] = "step"
    """How a dense weight is updated if its gradient is exactly 0, as in an inactive ReLU unit. step: by its
    rule, so that rules like Adam continue on the moments of earlier events. skip: not at all; its moments
    stay unchanged, which saves memory traffic. adagrad and sgd do not update it in either case."""
    moments: Literal["float32", "bfloat16"] = "float32"
    """Storage of the accumulators of rows and dense weights. bfloat16: half the memory, with stochastic
    rounding; arithmetic stays in float32."""
    l2: Number = 0.0
    """Lazy L2 of the rows: applied when a row is updated, scaled by the steps since its last update."""
