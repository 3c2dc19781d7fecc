"""The events that an impression gives under each label policy.

======================  ==============================  ===========================================
                        wait                            fast, fnw, naive
======================  ==============================  ===========================================
impression              PREDICT                         PREDICT, LEARN and COPY with label 0
click within the window nothing (or LEARN with 1, when  LEARN and COPY with label 1
                        released at the click)
window's end            LEARN with the final label      SETTLE with the final label
======================  ==============================  ===========================================

Only a share of the negatives is learned, sampled by a hash of the event id and the seed. The others are
still counted, predicted and scored: under wait they end with SETTLE; under fast and fnw they begin with
PREDICT alone, and their copy with label 1 still follows a click.
"""

from __future__ import annotations

import hashlib
from typing import Final

from stream_ctr.batch import COPY, LEARN, PREDICT, SETTLE
from stream_ctr.config.join import JoinConfig
from stream_ctr.config.label_policy import LabelLoss

_SPAN: Final = 2.0**64


class LabelPolicy:
    """Gives the actions of impressions and of the joiner's labels.

    >>> policy = LabelPolicy(JoinConfig(policy="fast"))
    >>> policy.shown("a") == PREDICT | LEARN | COPY
    True
    """

    def __init__(self, config: JoinConfig) -> None:
        """Raises ConfigError for a policy that does not support the share of negatives."""
        self.loss = LabelLoss(config.policy, config.keep_negatives)
        """The part that a learner needs."""
        self._waits = self.loss.waits
        self._below = config.keep_negatives * _SPAN
        self._keeps_all = config.keep_negatives == 1.0
        self._seed = config.keep_seed.to_bytes(8, "little", signed=True)

    def shown(self, event_id: str) -> int:
        """Action of an impression at its place in the order; with LEARN, its label there is 0."""
        if self._waits or not self.keeps(event_id):
            return PREDICT
        return PREDICT | LEARN | COPY

    def labelled(self, event_id: str, label: float, final: bool) -> int:
        """Action of a label."""
        if not final:
            return LEARN | COPY
        if not self._waits or (label == 0.0 and not self.keeps(event_id)):
            return SETTLE
        return LEARN

    def keeps(self, event_id: str) -> bool:
        """Whether this impression is learned as a negative."""
        if self._keeps_all:
            return True
        digest = hashlib.blake2b(event_id.encode(), digest_size=8, key=self._seed).digest()
        return int.from_bytes(digest, "little") < self._below
