"""Log loss and AUC of logits on held-out events."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_ctr.offline.scores import Scores, score


def quality(logit: NDArray[np.float64], label: NDArray[np.float64]) -> Scores:
    """Scores of logits [n] on labels [n] of 0 and 1.

    >>> quality(np.array([2.0, -2.0]), np.array([1.0, 0.0])).auc
    1.0
    """
    p = 0.5 * (1.0 + np.tanh(0.5 * logit))  # the sigmoid, which cannot overflow
    return score(p.astype(np.float32), label.astype(np.uint8))
