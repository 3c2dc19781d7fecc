"""How a trainer starts: from its newest whole checkpoint, or anew, and never silently elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from stream_ctr.config.settings import Settings
from stream_ctr.daemon.checkpoint import CheckpointStore, Loaded
from stream_ctr.daemon.identity import refuse_other
from stream_ctr.errors import LogError, OffsetRangeError, StateError
from stream_ctr.events.limits import ReadLimits
from stream_ctr.events.log import Entry, EventLog, TopicPartition
from stream_ctr.pipeline.decoding.records import MAX_VALUE_BYTES
from stream_ctr.pipeline.ordering.progress import entry_digest
from stream_ctr.pipeline.stage import Stage
from stream_ctr.predictors.snapshot import SNAPSHOTS, versions
from stream_ctr.state.state import State

RECORD_BYTES: Final = MAX_VALUE_BYTES + 64 * 1024
"""Largest record that is read: no longer value is decoded, and a key, if any, is an event id."""
ENTRY_SECONDS: Final = 10.0
"""How long a log may take to give one entry."""
UNREAD: Final = entry_digest(Entry("", 0, 0, 0, None, None))
"""Digest of an entry whose bytes were not read: it says nothing about them."""


@dataclass(frozen=True, slots=True)
class LogPlace:
    """Which log, and which topics of it, by the ids that change when they are made anew."""

    log_id: str
    topic_ids: dict[str, str]
    partitions: int
    """Of each topic."""

    def all(self) -> list[TopicPartition]:
        """Every partition of both topics."""
        return [TopicPartition(topic, p) for topic in self.topic_ids for p in range(self.partitions)]

    def as_json(self, url: str) -> dict[str, Any]:
        """For the manifest."""
        return {"url": url, "log_id": self.log_id, "topic_ids": self.topic_ids}


def input_topics(settings: Settings) -> tuple[str, ...]:
    """The topics that a trainer reads, in the rank of their order."""
    if settings.join.input == "labelled":
        return (settings.log.labelled,)
    return settings.log.impressions, settings.log.clicks


def find_place(log: EventLog, topics: Sequence[str]) -> LogPlace:
    """Look up the topics.

    Raises:
        LogError: a topic is missing, or the two have different numbers of partitions.
    """
    counts = {topic: log.partitions(topic) for topic in topics}
    if len(set(counts.values())) > 1:
        raise LogError(
            f"{log.url}: topics must have equal numbers of partitions, so that keys meet: "
            + ", ".join(f"{topic} has {count}" for topic, count in counts.items())
            + f"; add partitions to the smaller one until it has {max(counts.values())}"
        )
    return LogPlace(
        log.log_id(),
        {topic: log.topic_id(topic) for topic in topics},
        counts[topics[0]],
    )


def compaction_remarks(log: EventLog, place: LogPlace) -> list[str]:
    """A warning for each topic that the log compacts, as far as the log says."""
    return [
        f"topic {topic} has cleanup.policy = compact: Kafka keeps only the last record of a key, so "
        "events of keys that come again are lost. Set cleanup.policy = delete"
        for topic in place.topic_ids
        if log.is_compacted(topic)
    ]


class Resumable(Protocol):
    """A state that a run resumes from a checkpoint."""

    @property
    def stage(self) -> Stage:
        """How far which log is applied."""
        ...

    def load_parts(self, parts: dict[str, State]) -> None:
        """Become what handed out ``parts``."""
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
    begin: Callable[[R], None] = lambda core: None,
    remark: Callable[[str], None] = lambda text: None,
) -> tuple[R, Loaded | None]:
    """The core to go on with, and the checkpoint that it came from (None: a new run).

    A new run reads from the first entry that the log holds or, ``at_end``, from behind its last; ``begin``
    is told its core. With ``skip_lost``, a run goes on behind entries that the log no longer holds, and has
    counted them. ``remark`` is called with what is unusual and refuses nothing.

    Raises:
        StateError: the checkpoint belongs to another setup, or none of them is whole.
        OffsetRangeError: the log lost what comes next, or is not the log that was read.
    """
    loaded = store.load()
    core = make_core()
    if loaded is None:
        offsets = log.end_offsets if at_end else log.start_offsets
        starts = {topic: offsets(topic) for topic in place.topic_ids}
        core.stage.progress.begin({tp: starts[tp.topic][tp.partition] for tp in place.all()})
        begin(core)
        return core, None
    folder = store.path(loaded.manifest.version)
    refuse_other(loaded.manifest.identity, identity, folder)
    _refuse_other_log(loaded.manifest.log, log, place, folder)
    saved = sorted((topic, partition) for topic, partition, _ in loaded.manifest.positions)
    if saved != sorted(place.all()):
        raise StateError(
            f"{folder} was written for {len(saved) // len(place.topic_ids)} partitions of each topic, "
            f"the log has {place.partitions}: the order of events was begun without the others. "
            f"Start a new state folder; train --start-from {folder.parent} --start-at last keeps the weights"
        )
    core.load_parts(loaded.parts)
    _check_range(core, log, place, folder, skip_lost)
    _refuse_other_records(core, log, folder, remark)
    return core, loaded


def refuse_untrained(folder: Path) -> None:
    """Refuse a new run in a folder whose checkpoints are gone: it would publish untrained weights in place of
    the trained snapshot.

    Raises:
        StateError: the folder has snapshots.
    """
    found = versions(folder / SNAPSHOTS)
    if found:
        raise StateError(
            f"{folder}: there is snapshot {found[-1]}, but no checkpoint of the run that made it; a new run "
            "would replace it by untrained weights. Restore checkpoints and journal, choose another state "
            "folder (train.state), or replace it (train --replace-snapshots)"
        )


def skipped_entries(core: Resumable, loaded: Loaded | None) -> int:
    """How many entries lie between the positions of a checkpoint and those of the core that goes on."""
    if loaded is None:
        return 0
    positions = core.stage.progress.positions()
    saved = loaded.manifest.positions
    return sum(positions[TopicPartition(topic, number)] - offset for topic, number, offset in saved)


def _refuse_other_log(saved: dict[str, Any], log: EventLog, place: LogPlace, folder: Path) -> None:
    if saved.get("log_id") != place.log_id:
        raise OffsetRangeError(
            f"{folder} was read from log {saved.get('log_id')} at {saved.get('url')}; {log.url} is log "
            f"{place.log_id}: its offsets mean other events. Restore the address, or start a new state folder"
        )
    for topic, topic_id in place.topic_ids.items():
        before = saved.get("topic_ids", {}).get(topic)
        if before != topic_id:
            raise OffsetRangeError(
                f"topic {topic} of {log.url} was deleted and created again since {folder} was written "
                f"(id {before}, now {topic_id}): its offsets mean other events. Start a new state folder"
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
                f"{tp.topic}[{tp.partition}]: {folder} goes on at offset {offset}, the log begins at "
                f"{first}: the {first - offset} entries {offset} to {first - 1} are lost to retention. "
                "Restore them, go on without them (train --skip-lost), or start a new state folder"
            )
        if offset > end:
            raise OffsetRangeError(
                f"{tp.topic}[{tp.partition}]: {folder} goes on at offset {offset}, the log ends at {end}: it "
                "is shorter than what was read. Restore it, or start a new state folder"
            )
    core.stage.progress.skip(skipped)


def _refuse_other_records(
    core: Resumable, log: EventLog, folder: Path, remark: Callable[[str], None]
) -> None:
    """Compare the last applied record of each partition, where the log still holds it.

    Where it does not, although it holds later offsets, compaction has removed the record: topic ids and
    ranges were compared before, so the log is the one that was read.
    """
    positions = core.stage.progress.positions()
    for tp, digest in sorted(core.stage.progress.digests().items()):
        offset = positions[tp] - 1
        if offset < log.start_offsets(tp.topic)[tp.partition]:
            continue
        entry = _entry_at(log, tp, offset)
        if entry is None:
            remark(
                f"{tp.topic}[{tp.partition}]: entry {offset}, the last one that {folder} was made from, is "
                "gone although the log has later offsets: compaction removed it. Reading goes on after it"
            )
        elif UNREAD not in (digest, entry_digest(entry)) and entry_digest(entry) != digest:
            raise OffsetRangeError(
                f"{tp.topic}[{tp.partition}]: entry {offset} of {log.url} is not the one that {folder} was "
                "made from: the log was replaced. Restore it, or start a new state folder"
            )


def _entry_at(log: EventLog, tp: TopicPartition, offset: int) -> Entry | None:
    """The entry at an offset that the log's range holds; None where there is none.

    Raises:
        LogError: the log does not answer.
    """
    reader = log.reader({tp: offset}, ReadLimits(record=RECORD_BYTES))
    deadline = time.monotonic() + ENTRY_SECONDS
    try:
        while time.monotonic() < deadline:
            entries = reader.poll(1, 1.0)
            if entries:
                return entries[0] if entries[0].offset == offset or entries[0].unread else None
            if reader.positions()[tp] > offset:  # only marks of transactions are left
                return None
    finally:
        reader.close()
    raise LogError(
        f"{log.url}: {tp.topic}[{tp.partition}] did not give entry {offset} in {ENTRY_SECONDS:g} s; try again"
    )
