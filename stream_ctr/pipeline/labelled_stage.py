"""The stage over a topic of labelled impressions, which the joining process (or a stream engine) writes.

Every record is one impression with its final label. A trainer counts, scores and learns it at its place.
That is what a trainer that joins does with the same labels in the same order, except that it counts and
scores an impression earlier, at the impression's own place. So weights are equal bit for bit where neither
counts nor buckets that are learned from the stream enter them, and the label times of two partitions do not
tie.

A record whose sequence number was read before is a repeat: a joiner that lost an acknowledgement wrote it
again. It is dropped and counted as ``labelled_repeated``; sequence numbers that are missing are counted as
``labelled_missing``. A replayed dead letter has its old sequence number and is used all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from stream_ctr.config.join import JoinConfig
from stream_ctr.errors import ConfigError, StateError
from stream_ctr.events.dead_letter_replay import REPLAYED_HEADER
from stream_ctr.events.log import Entry
from stream_ctr.events.records import Impression, LabelledImpression
from stream_ctr.pipeline.joining.segments import SegmentName
from stream_ctr.pipeline.ordering.entry import OrderedEntry
from stream_ctr.pipeline.ordering.progress import Progress
from stream_ctr.pipeline.stage import JoinNumbers, topic_partitions
from stream_ctr.state.state import Json, State

COUNTERS: Final = ("impressions", "positives", "labelled_repeated", "labelled_missing")


def check_final(join: JoinConfig) -> None:
    """Check that a label policy works with a topic of final labels.

    Raises:
        ConfigError: the policy learns before the label is final.
    """
    if join.policy != "wait":
        raise ConfigError(
            f"join.policy = {join.policy!r} needs labels before they are final, and a labelled topic holds "
            "final labels only; set 'wait', or let the trainer join (join.input = 'clicks')"
        )


class FinalLabel(NamedTuple):
    """An impression with its final label."""

    impression: Impression
    label: float
    number: int
    """Running number of the impression."""
    time_ms: int
    """Its record's time in the order."""
    entry: Entry


class LabelledStage:
    """Reads the impressions of a labelled topic, each once.

    Args:
        topic: the labelled topic; it has ``partitions`` partitions.

    >>> LabelledStage("labelled", partitions=2).outcomes["impressions"]
    0
    """

    def __init__(self, topic: str, partitions: int) -> None:
        self.progress = Progress(topic_partitions((topic,), partitions))
        self.watermark_ms = 0
        """Time of the order, in event time."""
        self._sequences: dict[int, int] = {}
        self._counts = dict.fromkeys(COUNTERS, 0)

    @property
    def open_impressions(self) -> int:
        """0: every label is final."""
        return 0

    @property
    def outcomes(self) -> dict[str, int]:
        """Counters: entries, rejected and skipped entries, impressions, positives, repeated and missing
        ones."""
        progress = self.progress
        return {
            "entries": progress.applied,
            "rejected": progress.rejected,
            "skipped": progress.skipped,
            **self._counts,
        }

    def segments(self) -> list[SegmentName]:
        """None: nothing is held."""
        return []

    def numbers(self) -> JoinNumbers:
        """All 0: another process joins."""
        return JoinNumbers()

    def apply(self, entries: Sequence[OrderedEntry]) -> Iterator[FinalLabel]:
        """Apply the next entries of the order; the iterator must be read to its end.

        Yields each new impression with its label. One that the owner passes to ``progress.reject`` is not
        counted. Entries without a usable record are rejected.

        Raises:
            StateError: these are not the entries that follow the ones applied so far.
        """
        if not entries:
            return
        progress, counts = self.progress, self._counts
        progress.check_next(entries)
        for ordered in entries:
            entry, record = ordered.entry, ordered.record
            if entry is None:
                continue
            self.watermark_ms = max(self.watermark_ms, ordered.time_ms)
            if not isinstance(record, LabelledImpression):
                progress.reject(entry, ordered.reason)
                continue
            replayed = any(name == REPLAYED_HEADER for name, _ in entry.headers)
            if not replayed and not self._follows(entry.partition, record.sequence):
                continue
            rejected = progress.rejected
            yield FinalLabel(
                record.impression, float(record.label), counts["impressions"], ordered.time_ms, entry
            )
            if progress.rejected == rejected:
                counts["impressions"] += 1
                counts["positives"] += record.label
        progress.note(entries)

    def _follows(self, partition: int, sequence: int) -> bool:
        """Whether a record is new in its partition; its sequence number is remembered."""
        if sequence < 0:
            return True
        last = self._sequences.get(partition)
        if last is not None and sequence <= last:
            self._counts["labelled_repeated"] += 1
            return False
        if last is not None:
            self._counts["labelled_missing"] += sequence - last - 1
        self._sequences[partition] = sequence
        return True

    def parts(self) -> dict[str, State]:
        """Everything that decides what comes next, by part."""
        own: dict[str, Json] = {
            "sequences": [[partition, last] for partition, last in sorted(self._sequences.items())],
            "counts": dict(self._counts),
            "watermark_ms": self.watermark_ms,
        }
        return {"labelled": State({}, own), "order": State({}, self.progress.values())}

    def load_parts(self, state: State) -> None:
        """Become the stage whose :meth:`parts` were gathered into ``state``; other parts are ignored.

        Raises:
            StateError: it is damaged, or belongs to other topics or partitions.
        """
        progress = self.progress.loaded(state.part("order").values)
        try:
            own = msgspec.convert(state.values["labelled"], _Saved)
            # Version 0.1 kept the time in the state of a joiner that was otherwise empty.
            earlier = state.part("join").values.get("watermark_ms")
            watermark_ms = own.watermark_ms if own.watermark_ms is not None else int(str(earlier))
        except (KeyError, ValueError, msgspec.ValidationError):
            raise StateError("saved sequences of the labelled topic are missing or damaged") from None
        self._sequences, self._counts = dict(own.sequences), own.counts
        self.progress, self.watermark_ms = progress, watermark_ms


class _Saved(msgspec.Struct):
    sequences: list[tuple[int, int]]
    counts: dict[str, int]
    watermark_ms: int | None = None
