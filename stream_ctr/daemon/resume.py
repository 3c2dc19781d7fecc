"""Resumes the newest undamaged checkpoint, after checking configuration and log, or begins a new run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from stream_ctr.config.settings import Settings
from stream_ctr.daemon.checkpoint import CheckpointStore, Loaded
from stream_ctr.daemon.identity import check_identity
from stream_ctr.errors import LogError, OffsetRangeError, StateError
from stream_ctr.events.limits import ReadLimits
from stream_ctr.events.log import Entry, EventLog, TopicPartition
from stream_ctr.pipeline.decoding.records import MAX_VALUE_BYTES
from stream_ctr.pipeline.ordering.progress import entry_digest
from stream_ctr.pipeline.stage import Stage
from stream_ctr.predictors.snapshot import SNAPSHOTS, versions
from stream_ctr.state.state import State

RECORD_BYTES: Final = MAX_VALUE_BYTES + 64 * 1024
"""Largest record in bytes that is read: longer values are never decoded, and keys are event ids."""
ENTRY_SECONDS: Final = 10.0
"""Timeout for reading one entry, in seconds."""
UNREAD: Final = entry_digest(Entry("", 0, 0, 0, None, None))
"""Digest of an entry whose bytes were not read; it matches any entry."""


@dataclass(frozen=True, slots=True)
class LogPlace:
    """The log and its topics that are read, with ids that change when they are recreated."""

    log_id: str
    topic_ids: dict[str, str]
    partitions: int
    """Number of partitions of each topic."""

    def all(self) -> list[TopicPartition]:
        """Every partition of every topic."""
        return [TopicPartition(topic, p) for topic in self.topic_ids for p in range(self.partitions)]

    def as_json(self, url: str) -> dict[str, Any]:
        """For the manifest."""
        return {"url": url, "log_id": self.log_id, "topic_ids": self.topic_ids}


def input_topics(settings: Settings) -> tuple[str, ...]:
    """The topics that a trainer or watcher reads. Their sequence matters: it is their rank in the order."""
    if settings.join.input == "labelled":
        return (settings.log.labelled,)
    return settings.log.impressions, settings.log.clicks


def find_place(log: EventLog, topics: Sequence[str]) -> LogPlace:
    """Look up the ids and the number of partitions of the topics.

    Raises:
        LogError: a topic is missing, or the topics have different numbers of partitions.
    """
    counts = {topic: log.partitions(topic) for topic in topics}
    if len(set(counts.values())) > 1:
        raise LogError(
            f"{log.url}: topics must have the same number of partitions, so that a key has the same "
            "partition in each: "
            + ", ".join(f"{topic} has {count}" for topic, count in counts.items())
            + f"; add partitions to the smaller one until it has {max(counts.values())}"
        )
    return LogPlace(
        log.log_id(),
        {topic: log.topic_id(topic) for topic in topics},
        counts[topics[0]],
    )


def compaction_warnings(log: EventLog, place: LogPlace) -> list[str]:
    """A warning for each topic that the log reports as compacted."""
    return [
        f"topic {topic} has cleanup.policy = compact: Kafka keeps only the last record of each key, so "
        "earlier events with the same key are lost. Set cleanup.policy = delete"
        for topic in place.topic_ids
        if log.is_compacted(topic)
    ]


class Resumable(Protocol):
    """A state that a run resumes from a checkpoint."""

    @property
    def stage(self) -> Stage:
        """Applies the entries; knows the position in each partition."""
        ...

    def load_parts(self, parts: dict[str, State]) -> None:
        """Load the state ``parts``."""
        ...


R = TypeVar("R", bound=Resumable)


def resume(
    store: CheckpointStore,
    make_core: Callable[[], R],
    identity: dict[str, Any],
    log: EventLog,
    place: LogPlace,
    *,
    skip_lost: bool = False,
    at_end: bool = False,
    initialize: Callable[[R], None] = lambda core: None,
    warn: Callable[[str], None] = lambda text: None,
) -> tuple[R, Loaded | None]:
    """The core of a run, and the checkpoint that was loaded into it (None for a new run).

    Args:
        store: the checkpoints.
        make_core: makes an empty core.
        identity: the settings that a checkpoint must match.
        log, place: the open event log and its topics that are read.
        skip_lost: continue past entries that retention has deleted, counting them as skipped.
        at_end: a new run starts after the last entry of the log, not at the first.
        initialize: called with the core of a new run.
        warn: called with each warning about the log.

    Raises:
        StateError: the checkpoint has other settings, or all checkpoints are damaged.
        OffsetRangeError: the log has lost the next entries, or is not the log that was read.
    """
    loaded = store.load()
    core = make_core()
    if loaded is None:
        offsets = log.end_offsets if at_end else log.start_offsets
        starts = {topic: offsets(topic) for topic in place.topic_ids}
        core.stage.progress.begin({tp: starts[tp.topic][tp.partition] for tp in place.all()})
        initialize(core)
        return core, None
    folder = store.path(loaded.manifest.version)
    check_identity(loaded.manifest.identity, identity, store.folder.parent)
    _check_log(loaded.manifest.log, log, place, folder)
    saved = sorted((topic, partition) for topic, partition, _ in loaded.manifest.positions)
    if saved != sorted(place.all()):
        raise StateError(
            f"{folder} was written for {len(saved) // len(place.topic_ids)} partitions of each topic, "
            f"the log has {place.partitions}: the order of events began without the added ones. Set "
            f"train.state to a new folder; train --start-from {folder.parent} --start-at last keeps the "
            "weights"
        )
    core.load_parts(loaded.parts)
    _check_range(core, log, place, folder, skip_lost)
    _check_records(core, log, folder, warn)
    return core, loaded


def check_snapshots(folder: Path) -> None:
    """Reject a new run in a folder that has snapshots but no checkpoints: its untrained weights would replace
    the trained snapshot.

    Raises:
        StateError: the folder has snapshots.
    """
    found = versions(folder / SNAPSHOTS)
    if found:
        raise StateError(
            f"{folder} has snapshot {found[-1]} but no checkpoint: a new run would replace the snapshot by "
            "one with untrained weights. Restore checkpoints and journal, set train.state to a new folder, "
            "or allow it with train --replace-snapshots"
        )


def skipped_entries(core: Resumable, loaded: Loaded | None) -> int:
    """Number of entries between the positions of the checkpoint and those at which the core resumes."""
    if loaded is None:
        return 0
    positions = core.stage.progress.positions()
    saved = loaded.manifest.positions
    return sum(positions[TopicPartition(topic, number)] - offset for topic, number, offset in saved)


def _check_log(saved: dict[str, Any], log: EventLog, place: LogPlace, folder: Path) -> None:
    if saved.get("log_id") != place.log_id:
        raise OffsetRangeError(
            f"{folder} was created from log {saved.get('log_id')} at {saved.get('url')}; {log.url} is log "
            f"{place.log_id}: its offsets refer to other events. Restore log.url, or set train.state to a "
            "new folder"
        )
    for topic, topic_id in place.topic_ids.items():
        before = saved.get("topic_ids", {}).get(topic)
        if before != topic_id:
            raise OffsetRangeError(
                f"topic {topic} of {log.url} was deleted and created again since {folder} was written "
                f"(id {before}, now {topic_id}): its offsets refer to other events. Set train.state to a new "
                "folder"
            )


def _check_range(core: Resumable, log: EventLog, place: LogPlace, folder: Path, skip_lost: bool) -> None:
    positions, skipped = core.stage.progress.positions(), dict[TopicPartition, int]()
    starts = {topic: log.start_offsets(topic) for topic in place.topic_ids}
    ends = {topic: log.end_offsets(topic) for topic in place.topic_ids}
    for tp, offset in sorted(positions.items()):
        first, end = starts[tp.topic][tp.partition], ends[tp.topic][tp.partition]
        if offset < first and skip_lost:
            skipped[tp] = first
        elif offset < first:
            raise OffsetRangeError(
                f"{tp.topic}[{tp.partition}]: {folder} continues at offset {offset}, but the log begins at "
                f"{first}: the {first - offset} entries {offset} to {first - 1} were deleted by retention. "
                "Restore them, continue without them (--skip-lost), or set train.state to a new folder"
            )
        if offset > end:
            raise OffsetRangeError(
                f"{tp.topic}[{tp.partition}]: {folder} continues at offset {offset}, but the log ends at "
                f"{end}: it lost entries that were read. Restore the log, or set train.state to a new folder"
            )
    core.stage.progress.skip(skipped)


def _check_records(core: Resumable, log: EventLog, folder: Path, warn: Callable[[str], None]) -> None:
    """Compare the digest of the last applied record of each partition with the log.

    If the record is missing although the log holds later offsets, compaction has removed it: topic ids and
    ranges were compared before, so it is the same log.
    """
    positions = core.stage.progress.positions()
    for tp, digest in sorted(core.stage.progress.digests().items()):
        offset = positions[tp] - 1
        if offset < log.start_offsets(tp.topic)[tp.partition]:
            continue
        entry = _entry_at(log, tp, offset)
        if entry is None:
            warn(
                f"{tp.topic}[{tp.partition}]: entry {offset}, the last one applied in {folder}, is missing "
                "although the log has later offsets: compaction removed it. Reading continues after it"
            )
        elif UNREAD not in (digest, entry_digest(entry)) and entry_digest(entry) != digest:
            raise OffsetRangeError(
                f"{tp.topic}[{tp.partition}]: entry {offset} of {log.url} is not the one applied in "
                f"{folder}: the log was replaced. Restore the log, or set train.state to a new folder"
            )


def _entry_at(log: EventLog, tp: TopicPartition, offset: int) -> Entry | None:
    """The entry at an offset within the log's range; None if the log has no entry there.

    Raises:
        LogError: the log did not return an entry in time.
    """
    reader = log.reader({tp: offset}, ReadLimits(record=RECORD_BYTES))
    deadline = time.monotonic() + ENTRY_SECONDS
    try:
        while time.monotonic() < deadline:
            entries = reader.poll(1, 1.0)
            if entries:
                return entries[0] if entries[0].offset == offset or entries[0].unread else None
            if reader.positions()[tp] > offset:  # only transaction markers remain
                return None
    finally:
        reader.close()
    raise LogError(
        f"{log.url}: {tp.topic}[{tp.partition}] did not return entry {offset} within {ENTRY_SECONDS:g} s; "
        "try again"
    )
