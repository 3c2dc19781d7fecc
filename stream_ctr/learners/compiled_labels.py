"""The gradient of a label policy's loss at the logit, compiled; definitions in
:mod:`stream_ctr.config.label_policy`."""

from __future__ import annotations

from typing import Final

from stream_ctr.config.label_policy import POLICIES
from stream_ctr.kernels.decorators import fast_part

FAST: Final = POLICIES.index("fast")
FNW: Final = POLICIES.index("fnw")


@fast_part
def logit_gradient(p: float, label: float, policy: int, r: float) -> float:
    """dL/dz of one label at p = sigmoid(z): ``LabelLoss.logit_gradient``."""
    if policy == FAST:
        return (p / (p + r) - label) * (1.0 - p)
    if policy != FNW and r == 1.0:
        return p - label
    gradient = p / (p + r * (1.0 - p)) - label
    if policy == FNW:
        return gradient * ((1.0 + p) * (1.0 - p + p * label))
    return gradient
