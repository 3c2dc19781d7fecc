"""The loss of a label policy, defined by its gradient at the logit.

p = sigmoid(z) is the click probability that is served, under every policy. r is the share of negatives
that is learned (1: all of them). The loss of a label y is evaluated at a logit z_t, the log odds among the
labels as the learner receives them, so that its expected gradient is zero at the true p:

======  =======================  ===============  ===============================================
policy  labels of an impression  z_t              gradient at z
======  =======================  ===============  ===============================================
wait    the final one            z - ln r         sigmoid(z_t) - y
fast    0, later a copy with 1   ln p - ln r      (sigmoid(z_t) - y) (1 - p)
fnw     0, later a copy with 1   z - ln r         (sigmoid(z_t) - y) u, u = (1 + p)(1 - p + p y)
naive   0, later a copy with 1   z                p - y
======  =======================  ===============  ===============================================

fast: the share of ones among the copies is b = p / (1 + p), the odds of b are p. fnw: fake-negative
weighting, u without gradient, not clipped (Ktena et al. 2019, "Addressing delayed feedback for continuous
training with neural networks in CTR prediction"). naive corrects nothing and learns b for p.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from stream_ctr.config.registry import LABEL_POLICIES, find, why_unknown
from stream_ctr.errors import ConfigError, ModelError

Policy = Literal["wait", "fast", "fnw", "naive"]
POLICIES: Final[tuple[Policy, ...]] = ("wait", "fast", "fnw", "naive")
"""All policies. The compiled learner identifies a policy by its index."""


class CustomPolicy(Protocol):
    """A label policy that another package adds."""

    @property
    def waits(self) -> bool:
        """True: each impression is learned once, with its final label. False: at once with label 0 and, when
        its click arrives, again with label 1."""
        ...

    def logit_gradient(self, p: Any, label: Any, keep_negatives: float) -> Any:
        """dL/dz of one label at p = sigmoid(z); ``p`` is a number, an array or a tensor. ``keep_negatives``
        is the share of negatives that is learned."""
        ...


@dataclass(frozen=True, slots=True)
class LabelLoss:
    """How a learner interprets labels.

    >>> round(LabelLoss("fast").logit_gradient(0.2, 1.0), 4)
    -0.6667
    """

    policy: str = "wait"
    keep_negatives: float = 1.0
    """r: share of the negatives that is learned."""

    def __post_init__(self) -> None:
        """Check the policy and the share of negatives.

        Raises:
            ConfigError: the policy is unknown, the share is outside (0, 1], or the two are incompatible.
        """
        unknown = why_unknown(LABEL_POLICIES, POLICIES, "join.policy", self.policy)
        if unknown:
            raise ConfigError(unknown)
        if not 0.0 < self.keep_negatives <= 1.0:
            raise ConfigError(
                f"join.keep_negatives must be above 0 and at most 1, got {self.keep_negatives!r}"
            )
        if self.policy == "naive" and self.keep_negatives < 1.0:
            raise ConfigError(
                f"join.keep_negatives = {self.keep_negatives:g} cannot go with join.policy = 'naive', which "
                "corrects nothing; use wait, fast or fnw"
            )

    @property
    def custom(self) -> CustomPolicy | None:
        """The policy if another package adds it; None for a built-in one."""
        return None if self.policy in POLICIES else find(LABEL_POLICIES, self.policy)

    @property
    def waits(self) -> bool:
        """Whether an impression is learned once, with its final label."""
        custom = self.custom
        return self.policy == "wait" if custom is None else custom.waits

    @property
    def plain(self) -> bool:
        """Whether labels are learned without any correction, as in any binary classifier."""
        return self.policy in ("wait", "naive") and self.keep_negatives == 1.0

    def logit_gradient(self, p: Any, label: Any) -> Any:
        """dL/dz of one label at p = sigmoid(z); ``p`` is a number, an array or a tensor."""
        if self.plain:
            return p - label
        r = self.keep_negatives
        custom = self.custom
        if custom is not None:
            return custom.logit_gradient(p, label, r)
        if self.policy == "fast":
            return (p / (p + r) - label) * (1.0 - p)
        gradient = p / (p + r * (1.0 - p)) - label
        return gradient * ((1.0 + p) * (1.0 - p + p * label)) if self.policy == "fnw" else gradient


def refuse_labels(labels: LabelLoss, river: str) -> None:
    """River's models learn labels uncorrected, with their own loss.

    Raises:
        ModelError: the label policy needs another loss.
    """
    if not labels.plain:
        raise ModelError(
            f"{river} cannot learn under join.policy = {labels.policy!r} with keep_negatives = "
            f"{labels.keep_negatives:g}: river's models have their own loss, without correction; use wait, "
            "or a network"
        )
