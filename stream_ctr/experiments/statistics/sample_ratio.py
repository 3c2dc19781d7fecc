"""Sample-ratio mismatch: an always-valid test of the users per arm against the weights.

If the users per arm do not match the weights, some component loses or moves users, and no comparison of the
arms is valid. The test is the Dirichlet mixture of multinomial likelihood ratios (Lindon and Malek 2022,
"Anytime-Valid Inference for Multinomial Count Data", eq. 10). If the split is sound, its Bayes factor against
the weights ever exceeds 1 / alpha with probability at most alpha.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

PRIOR_USERS = 100.0
"""Weight of the mixture's prior, in users. The prior is centred on the weights. A larger value detects small
mismatches sooner and large ones later."""


def log_bayes_factor(users: Sequence[int], weights: Sequence[float]) -> float:
    """Natural logarithm of the Bayes factor against the weights.

    Args:
        users: distinct users seen in each arm.
        weights: expected share of each arm; positive, any sum.

    >>> round(log_bayes_factor([500, 500], [0.5, 0.5]), 2), round(log_bayes_factor([600, 400], [0.5, 0.5]), 1)
    (-1.2, 17.1)
    """
    whole = math.fsum(weights)
    shares = [weight / whole for weight in weights]
    prior = [PRIOR_USERS * share for share in shares]
    total = sum(users)
    evidence = math.lgamma(PRIOR_USERS) - math.lgamma(PRIOR_USERS + total)
    for count, share, start in zip(users, shares, prior, strict=True):
        evidence += math.lgamma(start + count) - math.lgamma(start) - count * math.log(share)
    return evidence


def log_bayes_factors(users: NDArray[np.int64], weights: Sequence[float]) -> NDArray[np.float64]:
    """:func:`log_bayes_factor` at N times, float64 [N].

    Args:
        users: int64 [N, arms], distinct users seen in each arm by each time.
        weights: [arms] expected share of each arm; positive, any sum.
    """
    whole = math.fsum(weights)
    evidence = math.lgamma(PRIOR_USERS) - gammaln(PRIOR_USERS + users.sum(axis=1))
    for arm, weight in enumerate(weights):  # one arm at a time, so that the rounding does not depend on N
        share, count = weight / whole, users[:, arm]
        start = PRIOR_USERS * share
        evidence = evidence + (gammaln(start + count) - math.lgamma(start) - count * math.log(share))
    return np.asarray(evidence, np.float64)


def p_value(users: Sequence[int], weights: Sequence[float]) -> float:
    """One over the Bayes factor, at most 1; its running minimum is an always-valid p-value."""
    return math.exp(min(0.0, -log_bayes_factor(users, weights)))
