"""Which impressions are in an experiment's comparisons, as whose, and why others are in none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, NamedTuple

from stream_ctr.config.experiment import BUCKETS, ExperimentConfig, intervals
from stream_ctr.events.records import ImpressionRecord
from stream_ctr.experiments.watcher.users import UserHash

ANALYSED: Final = ("assigned", "fallback", "killed")
"""Reasons of the impressions that are in comparisons, as their assigned arm's, whoever answered."""
EXCLUDED: Final = ("not_enrolled", "override", "no_user", "inconsistent", "other_salt", "unknown_arm")
"""Why impressions are in none."""
FAULTS: Final = ("no_user", "inconsistent", "unknown_arm")
"""Those that a sound experiment lacks: its servers name a user and the arm that owns the user's bucket."""
NOBODY: Final = -1


class Member(NamedTuple):
    """Where an impression belongs."""

    excluded: str
    """Why it is in no comparison; empty where it is in one, and the others have a meaning."""
    bucket: int = 0
    arm: int = NOBODY
    """Index of the arm that its user is assigned to."""
    user: int = 0
    """Hash of the user."""


class Members:
    """Finds where impressions belong.

    Raises:
        ConfigError: weights or coverage are unusable.
    """

    def __init__(self, experiment: ExperimentConfig) -> None:
        self._salt = experiment.salt
        self._index = {arm.name: index for index, arm in enumerate(experiment.arms)}
        self._hash = UserHash(experiment.salt)
        # At full coverage: a server may have raised it before this process knows.
        self._owner = [NOBODY] * BUCKETS
        for each in intervals(replace(experiment, coverage=1.0)):
            self._owner[each.start : each.stop] = [self._index[each.arm]] * (each.stop - each.start)

    def find(self, record: ImpressionRecord[Any]) -> Member:
        """Where an impression belongs, by what its server wrote and by what is declared."""
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
        """Index of the arm that an impression is assigned to or, without one, was answered by; or NOBODY."""
        return self._index.get(record.assigned_arm or record.arm, NOBODY)

    def serving(self, record: ImpressionRecord[Any]) -> int:
        """Index of the arm that answered; NOBODY where it is none of this experiment's."""
        return self._index.get(record.arm, NOBODY) if record.salt == self._salt else NOBODY
