"""The outcome of one run of a daemon: counts of records read, used and lost; warnings; the final report.

Trainer, joining process and watcher all use it. It reads the pipeline's counters and the clock. It is not
part of the state: a run that resumes a checkpoint begins with zeros.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from stream_ctr.config.settings import Settings
from stream_ctr.daemon.run_report import RunReport, Warned
from stream_ctr.events.log import Entry
from stream_ctr.monitoring.dead_letter_reasons import ReasonCounts
from stream_ctr.monitoring.loss_metrics import LossNumbers
from stream_ctr.monitoring.record_losses import (
    LOSSES,
    NOTHING_LEARNED,
    OTHER_WARNINGS,
    TIME_UNIT,
    Base,
    Loss,
    LossCounts,
    LossMonitor,
)
from stream_ctr.pipeline.decoding.time_units import like_seconds
from stream_ctr.pipeline.ordering.entry import OrderedEntry
from stream_ctr.reporting.progress import Reporter

CHECK_SECONDS: Final = 0.5
"""Time between two checks of the counters."""
REPEAT_SECONDS: Final = 300.0
"""Minimum time between two warnings about the same loss; the first is reported at once."""
NO_POSITIVES: Final = 1000
"""Number of settled impressions without any positive that gives a warning."""
LISTING: Final = "list them with `stream-ctr dead-letters list`"
NOT_KEPT: Final = "this job does not write dead letters; a trainer of the same log does"
_ENTRY_CLICKS: Final = "clicks_first"
"""The only click counter whose clicks are also counted by another counter."""


class Counted(Protocol):
    """A pipeline with counters."""

    @property
    def outcomes(self) -> dict[str, int]:
        """Counters since the state began."""
        ...


class RunOutcomes:
    """Counts one run, and warns of losses while it runs.

    Args:
        settings: the configuration.
        pipeline: has the counters; their present values are the start of the run.
        reporter: reports the warnings.
        clock: monotonic seconds.
        keeps_letters: whether this job writes unusable records to the dead letters.
    """

    def __init__(
        self,
        settings: Settings,
        pipeline: Counted,
        reporter: Reporter,
        clock: Callable[[], float] = time.monotonic,
        *,
        keeps_letters: bool = True,
    ) -> None:
        self._listing = LISTING if keeps_letters else NOT_KEPT
        self._settings, self._pipeline, self._reporter, self._clock = settings, pipeline, reporter, clock
        self._before = dict(pipeline.outcomes)
        self._read: dict[Base, int] = {"impressions": 0, "clicks": 0}
        self._reasons: dict[Base, ReasonCounts] = {"impressions": ReasonCounts(), "clicks": ReasonCounts()}
        self._dead: dict[Base, int] = {"impressions": 0, "clicks": 0}
        self._late = self._late_ever()
        self._behind_ms = 0
        self._unit: tuple[int, Entry] | None = None
        self.monitor = LossMonitor(settings.losses)
        """Loss shares of the most recent records."""
        self.warnings: set[str] = set()
        """Names of the losses that are a warning now."""
        self._check_due = 0.0
        self._warned_at: dict[str, float] = {}

    @property
    def read(self) -> Mapping[Base, int]:
        """Records read in this run; labelled records count as impressions."""
        return self._read

    @property
    def dead_letters(self) -> int:
        """Records of this run that could not be used."""
        return sum(self._dead.values())

    def count(self, ordered: Sequence[OrderedEntry], rejected: Iterable[tuple[Entry, str]]) -> None:
        """Count entries that the pipeline has applied, and those of them that it rejected."""
        clicks_topic, clicks, marks = self._settings.log.clicks, 0, 0
        for each in ordered:
            entry = each.entry
            if entry is None:
                marks += 1
            elif entry.topic == clicks_topic:
                clicks += 1
        self._read["clicks"] += clicks
        self._read["impressions"] += len(ordered) - clicks - marks
        for entry, reason in rejected:
            base = self._base(entry)
            self._dead[base] += 1
            self._reasons[base].add(entry, reason)
        late = self._late_ever()
        if late > self._late:
            self._late = late
            behind = (each.time_ms - each.record.ts_ms for each in ordered if each.record is not None)
            self._behind_ms = max(self._behind_ms, max(behind, default=0))
        self._check_unit(ordered)

    def check_losses(self, *, now: bool = False) -> None:
        """Warn of losses; cheap enough to call in every round."""
        moment = self._clock()
        if moment < self._check_due and not now:
            return
        self._check_due = moment + CHECK_SECONDS
        counts = self._counts()
        _, ended = self.monitor.update(counts)
        for name in ended:
            self._reporter.say("warning-ended", loss=name, share=round(self.monitor.recent[name].value, 4))
        present = list(self._present(counts))
        self.warnings = {warned.loss for warned in present}
        for warned in present:
            self._warn(warned)

    def _present(self, counts: LossCounts) -> Iterator[Warned]:
        """The present warnings."""
        for loss in LOSSES:
            if loss.name in self.monitor.active:
                recent = self.monitor.recent[loss.name]
                yield self._warned(loss, recent.lost, recent.read, "the last ")
        used, limits = self._change("impressions") - self._change("others"), self._settings.losses
        enough = counts.read["impressions"] >= limits.minimum_records
        if not used and enough and limits.warn_share < 1.0:
            yield Warned(NOTHING_LEARNED, 1.0, self._nothing(counts, "used"))
        if self._unit is not None:
            yield self._unit_warning(*self._unit)

    def numbers(self) -> LossNumbers:
        """The numbers for /metrics."""
        read = {str(kind): count for kind, count in self._read.items()}
        return LossNumbers(read, self.monitor.shares(), self.warning_flags())

    def warning_flags(self) -> dict[str, bool]:
        """For every loss, whether it is a warning now."""
        return {name: name in self.warnings for name in (*self.monitor.recent, *OTHER_WARNINGS)}

    def progress(self) -> dict[str, int]:
        """Losses of this run for a progress line."""
        names = ("impressions_late", "clicks_late", "clicks_too_late")
        return {
            "dead_letters": self.dead_letters,
            "clicks_orphaned": self._change("clicks_orphaned"),
            "late": sum(map(self._change, names)),
        }

    def finish(self, used: int, name: str, *, ever: int, ended: bool, left_out: str = "") -> RunReport:
        """Report the whole run, and warn of its losses.

        Args:
            used: impressions used in this run; ``ever``: since the state began.
            name: how they were used, such as "learned".
            ended: whether the log was read to its end, so that no further click can be joined.
            left_out: why other impressions were excluded, with counts.
        """
        counts = self._counts(ended=ended)
        self.check_losses(now=True)
        limit = self._settings.losses.warn_share
        warnings = []
        for loss in LOSSES:
            lost, read = counts.lost[loss.name], counts.read[loss.base]
            if loss.warns and (lost > limit * read or loss.name in self.monitor.active):
                warnings.append(self._warned(loss, lost, read, ""))
        if self._unit is not None:
            warnings.append(self._unit_warning(*self._unit))
        settled = self._change("positives") + self._change("negatives")
        if self._labelled("impressions"):
            settled = self._change("impressions")
        if not self._change("positives") and settled >= NO_POSITIVES and limit < 1.0:
            text = f"no positives among {settled:,} impressions: the model learns a click rate of 0"
            warnings.append(Warned("no_positives", 0.0, text))
        nothing = ""
        # Clicks without new impressions are not a failure if an earlier run has learned.
        if ended and not used and (counts.read["impressions"] or (counts.read["clicks"] and not ever)):
            nothing = self._nothing(counts, name, left_out)
        for warned in warnings:
            self._warned_at.pop(warned.loss, None)
            self._warn(warned)
        return RunReport(
            labelled=self._settings.join.input == "labelled",
            counts=counts,
            outcomes={key: self._change(key) for key in self._pipeline.outcomes},
            used=used,
            used_name=name,
            dead_letters=self.dead_letters,
            reasons=sorted(
                [*self._reasons["impressions"].most(), *self._reasons["clicks"].most()],
                key=lambda item: -item.count,
            ),
            warnings=warnings,
            nothing=nothing,
            listing=self._listing,
        )

    def _late_ever(self) -> int:
        outcomes = self._pipeline.outcomes
        return outcomes.get("impressions_late", 0) + outcomes.get("clicks_late", 0)

    def _base(self, entry: Entry) -> Base:
        return "clicks" if entry.topic == self._settings.log.clicks else "impressions"

    def _change(self, name: str) -> int:
        return self._pipeline.outcomes.get(name, 0) - self._before.get(name, 0)

    def _counts(self, *, ended: bool = False) -> LossCounts:
        outcomes = self._pipeline.outcomes
        change = {name: count - self._before.get(name, 0) for name, count in outcomes.items()}
        lost = {loss.name: change.get(loss.name, 0) for loss in LOSSES}
        lost["dead_impressions"], lost["dead_clicks"] = self._dead["impressions"], self._dead["clicks"]
        if ended:
            names = [name for name in change if name.startswith("clicks_") and name != _ENTRY_CLICKS]
            known = sum(change[name] for name in names) + self._dead["clicks"]
            # Clicks that were read by an earlier run may have been joined in this one.
            lost["clicks_waiting"] = max(0, self._read["clicks"] - known)
        return LossCounts(dict(self._read), lost)

    def _warned(self, loss: Loss, lost: int, read: int, of: str) -> Warned:
        share = min(1.0, lost / max(read, 1))
        noun = "labelled records" if self._labelled(loss.base) else loss.base
        text = f"{lost:,} of {of}{read:,} {noun} ({share:.1%}) {self._filled(loss.what)}; "
        return Warned(loss.name, share, text + self._filled(loss.remedy))

    def _labelled(self, base: Base) -> bool:
        return base == "impressions" and self._settings.join.input == "labelled"

    def _filled(self, text: str) -> str:
        join = self._settings.join
        found = {base: next(iter(self._reasons[base].most(1)), None) for base in self._reasons}
        reasons = {base: f"{item.reason} ({item.place})" if item else "" for base, item in found.items()}
        return text.format(
            horizon=f"{join.horizon_seconds:g}",
            window=f"{join.window_seconds:g}",
            behind=f"{self._behind_ms / 1000:,.0f}",
            impression_reason=reasons["impressions"],
            click_reason=reasons["clicks"],
            listing=self._listing,
        )

    def _nothing(self, counts: LossCounts, name: str, left_out: str = "") -> str:
        """Why no impression was used."""
        text = f"read {counts.read['impressions']:,} "
        if self._labelled("impressions"):
            text += f"labelled records, but none of them was {name}"
        else:
            text += f"impressions and {counts.read['clicks']:,} clicks, but no impression was {name}"
        lost = [loss for loss in LOSSES if loss.base == "impressions" and counts.lost[loss.name]]
        if lost:
            worst = max(lost, key=lambda loss: counts.lost[loss.name])
            text += f": {counts.lost[worst.name]:,} {self._filled(worst.what)}"
            text += f"; {self._filled(worst.remedy)}" if worst.remedy else ""
        elif left_out:
            text += f": {left_out}"
        elif self._change("others"):
            text += f": {self._change('others'):,} were answered by other arms, and learn_from is 'own'"
        return text

    def _check_unit(self, ordered: Sequence[OrderedEntry]) -> None:
        """Remember the first timestamp that looks like seconds; only one record per chunk is checked."""
        if self._unit is None and ordered:
            record, entry = ordered[0].record, ordered[0].entry
            if record is not None and entry is not None and like_seconds(record.ts_ms):
                self._unit = record.ts_ms, entry

    def _unit_warning(self, ts_ms: int, entry: Entry) -> Warned:
        place = f"{entry.topic}[{entry.partition}] offset {entry.offset}"
        text = f"ts_ms = {ts_ms} ({place}) is a date in 1970; it looks like seconds; write milliseconds"
        return Warned(TIME_UNIT, 0.0, text)

    def _warn(self, warned: Warned) -> None:
        moment = self._clock()
        if moment - self._warned_at.get(warned.loss, -REPEAT_SECONDS) >= REPEAT_SECONDS:
            self._warned_at[warned.loss] = moment
            self._reporter.say("warning", loss=warned.loss, share=round(warned.share, 4), reason=warned.text)
