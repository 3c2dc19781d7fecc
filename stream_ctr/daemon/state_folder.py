"""The state folder of a daemon: newest checkpoint, order of events and journal.

Trainers, the joining process and the watcher all open their state folder here, and report it in the same way.
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
    check_snapshots,
    compaction_warnings,
    resume,
    skipped_entries,
)
from stream_ctr.events.log import EventLog
from stream_ctr.features.scan.scanner import RecordScanner
from stream_ctr.pipeline.decoding.labelled import LabelledDecoder
from stream_ctr.pipeline.joining.segments import SegmentFolder
from stream_ctr.pipeline.ordering.entry import OrderState
from stream_ctr.pipeline.ordering.journal import FileJournal
from stream_ctr.pipeline.ordering.order import Order
from stream_ctr.reporting.progress import Reporter
from stream_ctr.state.durable_files import Files

R = TypeVar("R", bound=Resumable)
R_co = TypeVar("R_co", bound=Resumable, covariant=True)


@dataclass(frozen=True, slots=True)
class Opening(Generic[R_co]):
    """An opened state folder, from which a run starts."""

    folder: Path
    place: LogPlace
    """The topics that are read, with their ids."""
    log: dict[str, Any]
    """The log to which the state belongs, for the manifest."""
    identity: dict[str, Any]
    """The settings that a configuration must match, for the manifest."""
    store: CheckpointStore
    core: R_co
    journal: FileJournal
    order: Order
    loaded: Loaded | None
    """The checkpoint that was loaded into the core; None for a new run."""
    lost: int
    """Entries that the run skips because retention has deleted them."""
    warnings: list[str]
    """Warnings about the log."""

    @property
    def unsaved(self) -> bool:
        """Whether no checkpoint has the positions of this run, so that one must be written at once."""
        return self.loaded is None or self.lost > 0

    def report(
        self,
        reporter: Reporter,
        *,
        new: Mapping[str, Any] | None = None,
        ignored: str = "",
        resumed: Mapping[str, Any],
    ) -> None:
        """Report where the run starts.

        Args:
            reporter: where to report it.
            new: values to add for a new run.
            ignored: for a resumed run, why its options for a new run are ignored.
            resumed: values to add for a resumed run.
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
        for warning in self.warnings:
            reporter.say("log", warning=warning)
        if self.lost:
            reporter.say("skipped", entries=self.lost, reason="deleted by retention")


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
    initialize: Callable[[R], None] = lambda core: None,
) -> Opening[R]:
    """Open a state folder and resume its newest checkpoint, or begin a new run.

    Args:
        settings: the configuration.
        folder: the state folder; created if missing.
        log, place: the open event log and its topics that are read.
        identity: the settings that a checkpoint must match.
        make_core: makes an empty core; the argument stores the joiner's records beyond its memory budget.
        files: file operations of checkpoints, segments and journal.
        scanner: parses impressions faster than the default decoder; needs their schema.
        replace_snapshots: begin a new run even if the folder has snapshots of an earlier one.
        skip_lost, at_end, initialize: as in :func:`stream_ctr.daemon.resume.resume`.

    Raises:
        StreamCTRError: the checkpoint or the log cannot be resumed; nothing was changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = CheckpointStore(folder / "checkpoints", settings.train.checkpoints_kept, files or Files())
    segments = SegmentFolder(store.folder / SEGMENTS, files)
    warnings = compaction_warnings(log, place)
    core, loaded = resume(
        store,
        lambda: make_core(segments),
        identity,
        log,
        place,
        skip_lost=skip_lost,
        at_end=at_end,
        initialize=initialize,
        warn=warnings.append,
    )
    if loaded is None and not replace_snapshots:
        check_snapshots(folder)
    journal = FileJournal(folder / "journal", files)
    lost = skipped_entries(core, loaded)
    if lost:
        journal.cut(core.stage.progress.applied)
    return Opening(
        folder=folder,
        place=place,
        log=place.as_json(log.url),
        identity=identity,
        store=store,
        core=core,
        journal=journal,
        order=_order(settings, tuple(place.topic_ids), core.stage.progress.order_state(), journal, scanner),
        loaded=loaded,
        lost=lost,
        warnings=warnings,
    )


def _order(
    settings: Settings,
    topics: tuple[str, ...],
    start: OrderState,
    journal: FileJournal,
    scanner: RecordScanner | None,
) -> Order:
    """The order of the topics' entries, continued from ``start``."""
    order, labelled = settings.order, topics == (settings.log.labelled,)
    return Order(
        topics,
        start,
        journal,
        order.max_ahead_seconds,
        order.max_lead_seconds,
        scanner,
        LabelledDecoder(order.max_ahead_seconds) if labelled else None,
        lambda: time.time_ns() // 1_000_000,
    )
