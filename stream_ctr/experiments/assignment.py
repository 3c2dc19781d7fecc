"""Assignment of users to arms by a hash that is the same in every process, version and language.

The bucket of a user is an 8-byte BLAKE2b hash of salt and user, modulo 10,000. Arm i starts at its cumulative
weight and owns ``coverage`` of its share. Raising the coverage therefore adds users and moves none.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from stream_ctr.config.experiment import BUCKETS, ExperimentConfig, intervals

Reason = Literal["assigned", "not_enrolled", "fallback", "killed", "override", "sampled"]
"""Why an arm answered. assigned: the user's own arm. not_enrolled: the control, because the user is not
enrolled. fallback: the control, because the assigned arm could not answer. killed: the control, because the
assigned arm is killed. override: an arm chosen for a tester. sampled: an arm drawn for this event of a user
who is not enrolled."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """Bucket and arm of one user, whether or not that arm can answer."""

    bucket: int
    """0 to 9,999."""
    arm: str | None
    """The arm that owns the bucket; None when the user is not enrolled."""


def bucket_of(salt: str, unit: str) -> int:
    """Bucket of a unit (a user) in the experiment with this salt.

    The hash is unkeyed BLAKE2b with an 8-byte digest over, in this order: the length of the salt's UTF-8
    bytes (4 bytes, big-endian), those bytes, the length of the unit's UTF-8 bytes (4 bytes, big-endian),
    those bytes. The digest is read as an unsigned big-endian number and taken modulo 10,000.

    >>> bucket_of("main-1", "user-1")
    1306
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (salt.encode(), unit.encode()):
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return int.from_bytes(digest.digest(), "big") % BUCKETS


class Assigner:
    """Assigns users to the arms of one experiment.

    >>> from stream_ctr.config.experiment import ArmConfig, ExperimentConfig
    >>> arms = (ArmConfig("control", 0.5), ArmConfig("new", 0.5))
    >>> Assigner(ExperimentConfig(salt="main-1", arms=arms)).assign("user-1")
    Assignment(bucket=1306, arm='control')
    """

    def __init__(self, experiment: ExperimentConfig) -> None:
        self.experiment = experiment
        self.control = experiment.arms[0].name if experiment.arms else ""
        self._owner: list[str | None] = [None] * BUCKETS
        for interval in intervals(experiment):
            size = interval.stop - interval.start
            self._owner[interval.start : interval.stop] = [interval.arm] * size

    def assign(self, unit: str) -> Assignment:
        """Bucket and arm of a unit."""
        bucket = bucket_of(self.experiment.salt, unit)
        return Assignment(bucket, self._owner[bucket])
