"""On-policy mean of a log of the uniform policy, the reference for an off-policy estimate.

The check compares two estimates of one policy over one set of items. A log of another policy or another
campaign also yields a number, but the difference is meaningless. The propensities identify the policy: the
uniform policy over n items shows each with probability 1 / n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from stream_ctr.datasets.open_bandit import OpenBandit
from stream_ctr.errors import UsageError
from stream_ctr.events.records import FeatureValue
from stream_ctr.experiments.statistics.estimates import Estimate, by_cluster, ratio

TOLERANCE: Final = 1e-6
"""Relative difference allowed between numbers written by different programs."""
NUMBER: Final = "item_feature_0"
"""The only numeric item feature. The others are strings, hashed with a different salt in each log."""

Items = Mapping[str, Mapping[str, FeatureValue]]


def uniform_mean(dataset: OpenBandit, path: str, logged: str) -> Estimate:
    """Mean reward of the log at ``path``, clustered by user.

    Args:
        dataset: reader of both logs.
        path: log of the uniform policy.
        logged: log of the policy to evaluate from, over the same items.

    Raises:
        UsageError: the log at ``path`` is empty, or comes from another policy or other items.
        DataError: a log cannot be read.
    """
    where = f"--check {path}"
    known = next((each.items for each in dataset.rounds(logged, 1)), None)
    users: dict[str, int] = {}
    cluster, clicks = [], []
    for number, each in enumerate(dataset.rounds(path), start=1):
        if number == 1 and known is not None:
            _check_items(where, each.items, logged, known)
        share, propensity = 1.0 / len(each.items), each.shown.propensity
        if propensity is None or not math.isclose(propensity, share, rel_tol=TOLERANCE):
            raise UsageError(
                f"{where}, row {number}: propensity_score {propensity} is not 1/{len(each.items)} = "
                f"{share:.6g}, that of the uniform policy: this is not a log of the target policy; pass one, "
                "such as random/all"
            )
        cluster.append(users.setdefault(each.shown.user, len(users)))
        clicks.append(each.shown.label)
    if not clicks:
        raise UsageError(f"{where}: contains no rows")
    groups = np.array(cluster)
    rewards, rows = np.array(clicks, np.float64), np.ones(len(clicks))
    return ratio(*(by_cluster(groups, column, len(users)) for column in (rewards, rows)))


def _check_items(where: str, items: Items, logged: str, known: Items) -> None:
    """Raises UsageError if the items differ from those of the logged policy's log."""
    remedy = "a mean over other items is not the target policy's value; pass the log of the same campaign"
    if items.keys() != known.keys():
        other = sorted(items.keys() ^ known.keys())
        raise UsageError(
            f"{where}: has {len(items)} items, {logged} has {len(known)}; not in both: "
            f"{', '.join(other[:3])}{', ...' if len(other) > 3 else ''}; {remedy}"
        )
    for item, own in items.items():
        here, there = own.get(NUMBER), known[item].get(NUMBER)
        close = (
            isinstance(here, float)
            and isinstance(there, float)
            and math.isclose(here, there, rel_tol=TOLERANCE)
        )
        if here != there and not close:
            raise UsageError(
                f"{where}: item {item} has {NUMBER} {here}, in {logged} it has {there}; {remedy}"
            )
