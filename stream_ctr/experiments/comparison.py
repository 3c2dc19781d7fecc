"""Whether there is enough for an interval and, if not, what is missing.

The intervals rest on a normal approximation over buckets of users. It needs clicks, buckets, and impressions
that are spread over many of them: the impressions of one user in a thousand buckets count as one bucket.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_ctr.experiments.statistics.confidence_sequence import (
    FIRST_LOOK_BUCKETS,
    FIRST_LOOK_CLICKS,
    FIRST_LOOK_EFFECTIVE,
)


def effective_number(amounts: NDArray[Any]) -> float:
    """Number of equal amounts that are as informative: squared sum over sum of squares; 0 of nothing.

    Kish 1965, "Survey Sampling".

    >>> import numpy as np
    >>> effective_number(np.array([5.0, 5.0, 0.0])), round(effective_number(np.array([100.0, 1.0])), 2)
    (2.0, 1.02)
    """
    values = amounts.astype(np.float64)
    largest = float(values.max(initial=0.0))
    if largest <= 0.0:
        return 0.0
    shares = values / largest  # squares of large amounts would leave the range of a float
    return float(shares.sum()) ** 2 / float(shares @ shares)


def shortage(who: str, clicks: NDArray[Any], impressions: NDArray[Any]) -> str:
    """What an interval still needs, in a few words; empty when nothing.

    Args:
        who: whose impressions these are.
        clicks: [buckets] sums of clicks.
        impressions: [buckets] sums of impressions.

    >>> import numpy as np
    >>> shortage("helen", np.array([7, 5]), np.array([90, 80]))
    '12 of 100 clicks needed in helen'
    """
    if not impressions.any():
        return f"no impressions in {who}"
    clicked = int(clicks.sum())
    if clicked < FIRST_LOOK_CLICKS:
        return f"{clicked:,} of {FIRST_LOOK_CLICKS} clicks needed in {who}"
    filled = int(np.count_nonzero(impressions))
    if filled < FIRST_LOOK_BUCKETS:
        return f"{filled:,} of {FIRST_LOOK_BUCKETS} buckets of users needed in {who}"
    return concentration(who, "impressions", impressions)


def concentration(who: str, what: str, amounts: NDArray[Any]) -> str:
    """Whether too few users hold most of ``amounts`` [buckets], in a few words; empty when not."""
    number = effective_number(amounts)
    if number >= FIRST_LOOK_EFFECTIVE:
        return ""
    largest = float(amounts.max()) / float(amounts.sum())
    return (
        f"{number:.1f} of {FIRST_LOOK_EFFECTIVE} effective buckets of users needed in {who} (one bucket has "
        f"{100 * largest:.0f} % of the {what})"
    )


def enough(clicks: NDArray[Any], impressions: NDArray[Any]) -> bool:
    """Whether each arm has what an interval needs; sums [arms, buckets] as in :func:`shortage`."""
    return not any(shortage("", *arm) for arm in zip(clicks, impressions, strict=True))
