"""The order's output: entries at their place, and the state that the next place depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_ctr.events.log import Entry, TopicPartition
from stream_ctr.events.records import Click, Impression, LabelledImpression, ScannedImpression


class OrderedEntry(NamedTuple):
    """One entry at its place in the order.

    ``entry`` is None for the end of the log: the mark at which open windows are closed.
    """

    number: int
    """Entries emitted before this one."""
    time_ms: int
    """Time of the order: never less than that of the entry before."""
    partition_time_ms: int
    """Event time that the entry's partition has reached with it."""
    decisions: int
    """Journal decisions in effect."""
    entry: Entry | None
    record: Impression | ScannedImpression | Click | LabelledImpression | None
    reason: str
    """Why there is no record; empty if there is one."""
    ahead: tuple[int, int] = (0, 0)
    """Entries in a row, up to this one, that are far ahead of the order without having moved it, and their
    least time."""
    row: NDArray[np.uint64] | None = None
    """A scanned impression's keys, as :meth:`.keys.KeyEncoder.complete` takes them."""


@dataclass(frozen=True, slots=True)
class OrderState:
    """State that the order of the next entry depends on, besides log and journal."""

    emitted: int
    """Entries emitted."""
    time_ms: int
    """Time of the order."""
    decisions: int
    """Journal decisions in effect when the last entry was emitted."""
    partition_times: dict[TopicPartition, int]
    """Event time that each partition's emitted entries have reached."""
    positions: dict[TopicPartition, int]
    """Offset after each partition's last emitted entry."""
    ahead: tuple[int, int] = (0, 0)
    """``ahead`` of the last emitted entry."""
