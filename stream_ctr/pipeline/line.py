"""One partition's line in the order: what was read and not emitted, and how far its event time is.

A record that is further ahead of its partition's time than is allowed does not move it; AGREEING records in a
row that are so far ahead do.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_ctr.events.log import Entry, TopicPartition
from stream_ctr.events.records import Click, Impression, LabelledImpression
from stream_ctr.pipeline.scanned import ScannedImpression

AGREEING: Final = 16
"""Records in a row that move a partition's time beyond the lead that is allowed: of producers whose clocks
run ahead in a share s of the records, that happens by chance with probability s^16 a record."""


class Waiting(NamedTuple):
    """An entry in line. Compares by its place in the order: offsets make the first four unique."""

    time_ms: int
    rank: int
    partition: int
    offset: int
    entry: Entry
    record: Impression | ScannedImpression | Click | LabelledImpression | None
    reason: str
    lead: tuple[int, int]
    row: NDArray[np.uint64] | None


@dataclass(slots=True)
class Line:
    """One partition: its entries that were read and not emitted, and the event time that it has reached."""

    rank: int
    name: TopicPartition
    read_time_ms: int
    position: int
    waiting: deque[Waiting]
    idle: bool = False
    lead: tuple[int, int] = (0, 0)
    """Records in a row that are too far ahead, and the least time of them."""

    def see(self, ts_ms: int, max_lead_ms: float) -> None:
        """Let a record's time move the partition's, as far as it may."""
        if self.read_time_ms and ts_ms - self.read_time_ms > max_lead_ms:
            run, least_ms = self.lead
            least_ms = min(least_ms, ts_ms) if run else ts_ms
            if run + 1 < AGREEING:
                self.lead = (run + 1, least_ms)
                return
            self.read_time_ms = least_ms
            if ts_ms - least_ms > max_lead_ms:
                ts_ms = least_ms
        self.lead = (0, 0)
        self.read_time_ms = max(self.read_time_ms, ts_ms)
