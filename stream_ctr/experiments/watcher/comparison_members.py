"""Which impressions enter an experiment's comparisons, for which arm, and why the others are excluded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, NamedTuple

from stream_ctr.config.experiment import BUCKETS, ExperimentConfig, intervals
from stream_ctr.events.records import ImpressionRecord
from stream_ctr.experiments.watcher.users import UserHash

ANALYSED: Final = ("assigned", "fallback", "killed")
"""Reasons of the impressions that enter comparisons. They count for the assigned arm, whichever arm
answered."""
EXCLUDED: Final = ("not_enrolled", "override", "no_user", "inconsistent", "other_salt", "unknown_arm")
"""Reasons for exclusion from all comparisons."""
FAULTS: Final = ("no_user", "inconsistent", "unknown_arm")
"""Reasons that a sound experiment never has: its servers name a user and the arm that owns the user's
bucket."""
NO_ARM: Final = -1


class Member(NamedTuple):
    """Membership of an impression."""

    excluded: str
    """Why the impression is excluded. If empty, it is included and the other fields are valid."""
    bucket: int = 0
    arm: int = NO_ARM
    """Index of the arm that its user is assigned to."""
    user: int = 0
    """Hash of the user."""


class Members:
    """Determines the membership of impressions.

    Raises:
        ConfigError: weights or coverage are invalid.
    """

    def __init__(self, experiment: ExperimentConfig) -> None:
        self._salt = experiment.salt
        self._index = {arm.name: index for index, arm in enumerate(experiment.arms)}
        self._hash = UserHash(experiment.salt)
        # At full coverage, because a server may raise the coverage before this process learns of it.
        self._owner = [NO_ARM] * BUCKETS
        for each in intervals(replace(experiment, coverage=1.0)):
            self._owner[each.start : each.stop] = [self._index[each.arm]] * (each.stop - each.start)

    def find(self, record: ImpressionRecord[Any]) -> Member:
        """Membership of an impression, from its fields and the declared arms."""
        if record.salt != self._salt:
            return Member("other_salt")
        if record.reason not in ANALYSED or not record.assigned_arm:
            return Member("override" if record.reason == "override" else "not_enrolled")
        if not record.user:
            return Member("no_user")
        if record.assigned_arm not in self._index:
            return Member("unknown_arm")
        user = self._hash(record.user)
        bucket, arm = user % BUCKETS, self._index[record.assigned_arm]
        if record.bucket != bucket or self._owner[bucket] != arm:
            return Member("inconsistent")
        return Member("", bucket, arm, user)

    def named(self, record: ImpressionRecord[Any]) -> int:
        """Index of the assigned arm or, without one, of the arm that answered; NO_ARM if it is unknown."""
        return self._index.get(record.assigned_arm or record.arm, NO_ARM)

    def serving(self, record: ImpressionRecord[Any]) -> int:
        """Index of the arm that answered; NO_ARM if it is not an arm of this experiment."""
        return self._index.get(record.arm, NO_ARM) if record.salt == self._salt else NO_ARM
