"""What a daemon begins from: the state folder, its newest checkpoint, the order of events and its journal.

Trainers, the joining process and the experiment's watcher all begin here, and say so in the same words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from stream_ctr.config.settings import Settings
from stream_ctr.daemon.checkpoint import SEGMENTS, CheckpointStore, Loaded
from stream_ctr.daemon.resume import (
    LogPlace,
    Resumable,
    compaction_remarks,
    refuse_untrained,
    resume,
    skipped_entries,
)
from stream_ctr.events.log import EventLog
from stream_ctr.features.scan.scanner import RecordScanner
from stream_ctr.pipeline.decoding.labelled import LabelledDecoder
from stream_ctr.pipeline.joining.segments import SegmentFolder
from stream_ctr.pipeline.ordering.journal import FileJournal
from stream_ctr.pipeline.ordering.order import Order
from stream_ctr.reporting.progress import Reporter
from stream_ctr.state.durable_files import Files

R = TypeVar("R", bound=Resumable)
R_co = TypeVar("R_co", bound=Resumable, covariant=True)


@dataclass(frozen=True, slots=True)
class Opening(Generic[R_co]):
    """A state folder that is open, and what a run goes on from."""

    folder: Path
    place: LogPlace
    """The topics that are read, by their ids."""
    log: dict[str, Any]
    """Which log it belongs to, for the manifest."""
    identity: dict[str, Any]
    """What a configuration must agree on with it, for the manifest."""
    store: CheckpointStore
    core: R_co
    journal: FileJournal
    order: Order
    loaded: Loaded | None
    """The checkpoint that the core came from; None for a new run."""
    lost: int
    """Entries behind which the run goes on because the log no longer holds them."""
    remarks: list[str]
    """What is unusual about the log and worth a line."""

    @property
    def moved(self) -> bool:
        """Whether the run begins where no checkpoint is: one is due at once."""
        return self.loaded is None or self.lost > 0

    def tell(
        self,
        reporter: Reporter,
        *,
        new: Mapping[str, Any] | None = None,
        ignored: str = "",
        resumed: Mapping[str, Any],
    ) -> None:
        """Say where the run begins.

        Args:
            reporter: where to.
            new: what to add where there was no checkpoint.
            ignored: why what was given for a new run does not count, where there was one.
            resumed: what to add in that case.
        """
        if self.loaded is None:
            reporter.say("new", state=str(self.folder), **(new or {}))
        else:
            for reason in self.loaded.damaged:
                reporter.say("damaged", checkpoint=reason)
            if ignored:
                reporter.say("start-from-ignored", reason=ignored)
            newest = self.store.path(self.loaded.manifest.version)
            reporter.say("resumed", checkpoint=str(newest), **resumed)
        for remark in self.remarks:
            reporter.say("log", warning=remark)
        if self.lost:
            reporter.say("skipped", entries=self.lost, reason="the log no longer holds them")


def open_state(
    settings: Settings,
    folder: Path,
    log: EventLog,
    place: LogPlace,
    identity: dict[str, Any],
    make_core: Callable[[SegmentFolder], R],
    files: Files | None = None,
    *,
    scanner: RecordScanner | None = None,
    skip_lost: bool = False,
    replace_snapshots: bool = False,
    at_end: bool = False,
    begin: Callable[[R], None] = lambda core: None,
) -> Opening[R]:
    """Open a state folder and go on from its newest checkpoint, or begin a new run.

    Args:
        settings: the configuration.
        folder: the state folder; made where there is none.
        log, place: the open event log, and the topics of it that are read.
        identity: what the state and the configuration must agree on.
        make_core: an empty core, given where its joiner puts what memory does not hold.
        files: file operations of checkpoints, segments and journal.
        scanner: reads impressions faster, where their schema is known.
        replace_snapshots: begin a new run although the folder has snapshots of an earlier one.
        skip_lost, at_end, begin: as in :func:`stream_ctr.daemon.resume.resume`.

    Raises:
        StreamCTRError: the state or the log cannot be gone on with; nothing was changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = CheckpointStore(folder / "checkpoints", settings.train.checkpoints_kept, files or Files())
    segments = SegmentFolder(store.folder / SEGMENTS, files)
    remarks = compaction_remarks(log, place)
    core, loaded = resume(
        store,
        lambda: make_core(segments),
        identity,
        log,
        place,
        skip_lost=skip_lost,
        at_end=at_end,
        begin=begin,
        remark=remarks.append,
    )
    if loaded is None and not replace_snapshots:
        refuse_untrained(folder)
    journal = FileJournal(folder / "journal", files)
    lost = skipped_entries(core, loaded)
    if lost:
        journal.cut(core.stage.progress.applied)
    topics, order = tuple(place.topic_ids), settings.order
    labelled = topics == (settings.log.labelled,)
    return Opening(
        folder=folder,
        place=place,
        log=place.as_json(log.url),
        identity=identity,
        store=store,
        core=core,
        journal=journal,
        order=Order(
            topics,
            core.stage.progress.order_state(),
            journal,
            order.max_ahead_seconds,
            order.max_lead_seconds,
            scanner,
            LabelledDecoder(order.max_ahead_seconds) if labelled else None,
            lambda: time.time_ns() // 1_000_000,
        ),
        loaded=loaded,
        lost=lost,
        remarks=remarks,
    )
