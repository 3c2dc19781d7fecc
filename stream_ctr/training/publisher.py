"""What the trainer shows of itself while it works: numbers for Prometheus, a line for people, snapshots.

All of it on timers, none of it part of the state. Whoever scrapes reads a finished value and never the
loop's own state, so nobody can hold the loop up.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from stream_ctr.batch import LEARN
from stream_ctr.config.experiment import Arm
from stream_ctr.config.features import FieldConfig
from stream_ctr.config.settings import Settings
from stream_ctr.daemon.background import Background
from stream_ctr.daemon.loop import Chunk
from stream_ctr.daemon.run_outcomes import RunOutcomes
from stream_ctr.errors import StateError
from stream_ctr.monitoring.exposition import TrainerMetrics
from stream_ctr.monitoring.http_server import MetricsServer
from stream_ctr.monitoring.trainer_numbers import Durations, Spread, TrainerNumbers
from stream_ctr.predictors.export import model_parts
from stream_ctr.predictors.predictor import Predictor
from stream_ctr.predictors.reader import open_fixed
from stream_ctr.predictors.snapshot import FrozenContent, write_snapshot
from stream_ctr.reporting.progress import Reporter
from stream_ctr.state.frozen import FrozenState, Source
from stream_ctr.state.state import State
from stream_ctr.training.core import Core, Step

PUBLISH_SECONDS = 0.25
"""Time between two publications of the numbers: what a scrape can see."""
SPREAD_SECONDS = 5.0
"""Time between two looks at all counts, whose cost grows with the vocabulary."""


class Prepared(NamedTuple):
    """What a snapshot holds besides the weights."""

    vocabulary: dict[str, Source]
    encoder: State
    event_time_ms: int


class Publisher:
    """Opens /metrics on entry and closes it on exit.

    Raises:
        StreamCTRError: on entry, when the port cannot be listened on.
    """

    def __init__(
        self,
        settings: Settings,
        arm: Arm,
        fields: tuple[FieldConfig, ...],
        folder: Path,
        reporter: Reporter,
        outcomes: RunOutcomes,
    ) -> None:
        self._outcomes = outcomes
        self._train, self._arm, self._fields = settings.train, arm, fields
        self._snapshots = folder / "snapshots"
        self._reporter = reporter
        self._metrics = TrainerMetrics()
        self._server: MetricsServer | None = None
        self._durations = Durations()
        self._dead_letters: Counter[str] = Counter()
        self._warned: set[str] = set()
        """Unknown features that were reported."""
        self._ready: str | None = "reading the log has not begun"
        self._spread: tuple[Spread | None, Spread | None] = (None, None)
        self._numbers_due = self._spread_due = 0.0
        self._snapshot_due = time.monotonic() + self._train.snapshot_seconds
        self._snapshot_seconds: float | None = None
        self._snapshot_learned = -1
        self._snapshot_failures = 0
        self._snapshot_error: type[Exception] | None = None
        """Kind of the reason why the last snapshot was not published; None when it was."""
        self._prepared: Prepared | None = None
        """A snapshot whose weights the learner has not reached yet."""
        self._rate = _Rate()
        self._writing = Background[int]("snapshot")
        self._publishes = self._train.snapshot_seconds > 0 and not arm.learner.rebuild

    def __enter__(self) -> Publisher:
        if self._train.metrics_port >= 0:
            self._server = MetricsServer(
                self._train.metrics_host, self._train.metrics_port, self._metrics, lambda: self._ready
            )
            url = f"http://{self._server.host}:{self._server.port}/metrics"
            self._reporter.say("metrics", url=url)
        if self._train.snapshot_seconds and not self._publishes:
            reason = (
                f"{self._arm.learner.river} cannot serve from a snapshot; river-ftrl, river-lr, river-fm can"
            )
            self._reporter.say("no-snapshots", reason=reason)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writing.close()
        if self._server is not None:
            self._server.close()

    def count(self, step: Step) -> None:
        """Add what one chunk measured."""
        self._durations.add(step.result.seconds[step.batch.action & LEARN != 0])
        self._dead_letters.update(reason_class(reason) for _, reason in step.rejected)

    def publish(self, core: Core, chunk: Chunk, checkpoint_ms: int | None, *, now: bool = False) -> None:
        """Publish the present figures if it is time to (``now``: in any case).

        Args:
            core: whose figures.
            chunk: the log's health and ends.
            checkpoint_ms: when the newest checkpoint was made; None before the first one.
        """
        moment = time.monotonic()
        self._ready = None if chunk.healthy else "the log does not answer; it is tried again"
        if now or moment >= self._numbers_due:
            self._numbers_due = moment + PUBLISH_SECONDS
            numbers = self._numbers(core, chunk, checkpoint_ms, moment)
            self._metrics.publish(numbers)
            self._progress(numbers)

    def snapshot_due(self) -> bool:
        """Whether it is time for :meth:`begin_snapshot`, and the one before is written."""
        if self._writing.done:
            self.end_snapshot()
        due = self._publishes and time.monotonic() >= self._snapshot_due
        return due and self._prepared is None and not self._writing.busy

    def begin_snapshot(self, core: Core) -> bool:
        """Keep what a snapshot holds besides the weights, for everything applied so far.

        Returns whether :meth:`write_snapshot` is to follow, with the weights that the learner has once all of
        that is learned.
        """
        self.end_snapshot()
        self._snapshot_due = time.monotonic() + self._train.snapshot_seconds
        if not self._publishes:
            return False
        tables, keys = core.pipeline.tables.freeze_lookup(), core.pipeline.key_encoder.state()
        vocabulary: dict[str, Source] = dict(zip(("table_keys", "table_rows"), tables, strict=True))
        self._prepared = Prepared(vocabulary, keys, core.stage.watermark_ms)
        return True

    def write_snapshot(self, core: Core, weights: FrozenState) -> None:
        """Write the snapshot that was begun, in another thread, unless nothing was learned since the last
        one."""
        prepared, self._prepared = self._prepared, None
        learned = core.learned
        if prepared is None or learned == self._snapshot_learned:
            weights.close()
            return
        model, dense, rows = model_parts(self._arm.model, len(self._fields), weights)
        content = FrozenContent(
            fields=self._fields,
            vocabulary=prepared.vocabulary,
            encoder=prepared.encoder,
            event_time_ms=prepared.event_time_ms,
            model=model,
            dense=dense,
            rows=rows,
            model_version=f"{self._arm.name}-{learned}",
        )

        def write() -> int:
            with weights:
                write_snapshot(self._snapshots, content, check=_check_predictions)
            return learned

        self._writing.start(write)

    def end_snapshot(self) -> None:
        """Wait for the snapshot being written; a failure is reported and leaves the last one current."""
        try:
            learned = self._writing.take()
        except (OSError, StateError) as error:
            self._snapshot_failures += 1
            if type(error) is not self._snapshot_error:  # once, not at every try
                self._reporter.say("snapshot-failed", reason=str(error))
            self._snapshot_error = type(error)
            return
        if learned is not None:
            self._snapshot_error = None
            self._snapshot_learned = learned
            self._snapshot_seconds = time.time()

    def _numbers(self, core: Core, chunk: Chunk, checkpoint_ms: int | None, moment: float) -> TrainerNumbers:
        tables, metrics, stage = core.pipeline.tables, core.metrics, core.stage
        if moment >= self._spread_due:
            self._spread_due = moment + SPREAD_SECONDS
            own = tables.row_field.shape[0] - len(self._fields)
            counts = tables.row_count[-own:] if own else tables.row_count[:0]
            fields = tables.row_field[-own:] if own else tables.row_field[:0]
            self._spread = Spread.of(counts), Spread.of(counts / tables.field_maximum[fields])
        applied, joined = stage.progress.positions(), stage.numbers()
        outcomes = dict(core.pipeline.outcomes)
        entries = outcomes.pop("entries")
        losses = self._outcomes.numbers()
        left_out = {name: outcomes.pop(name) for name in core.pipeline.left_out}
        ignored = dict(core.pipeline.key_encoder.tally.ignored)
        self._warn_of(ignored)
        return TrainerNumbers(
            arm=self._arm.name,
            learn_from=self._arm.learn_from,
            events={**outcomes, "learned": core.learned},
            applied_entries=entries,
            watermark_ms=stage.watermark_ms if entries else None,
            lag_entries={tp: max(0, chunk.ends[tp] - offset) for tp, offset in applied.items()},
            learn=self._durations.snapshot(),
            lifetime=metrics.result("lifetime"),
            recent=metrics.result("window"),
            vocabulary_rows=tables.rows_in_use,
            feature_counts=self._spread[0],
            radius_ratios=self._spread[1],
            checkpoint_seconds=None if checkpoint_ms is None else checkpoint_ms / 1000.0,
            snapshot_seconds=self._snapshot_seconds,
            snapshot_failures=self._snapshot_failures,
            non_finite_updates=core.non_finite,
            drift_detected=metrics.drift.detected,
            drifts_worse=metrics.drift.worse,
            drifts_better=metrics.drift.better,
            open_impressions=stage.open_impressions,
            joiner_bytes=joined.memory_bytes,
            joiner_segment_bytes=joined.segment_bytes,
            joined_value=joined.joined_value,
            label_delays=joined.delay_counts,
            label_delay_sum_seconds=joined.delay_sum_seconds,
            dead_letters=dict(self._dead_letters),
            read=losses.read,
            loss_shares=losses.shares,
            loss_warnings=losses.warnings,
            features_ignored=ignored,
            values_truncated=left_out["values_truncated"],
        )

    def _warn_of(self, ignored: Mapping[str, int]) -> None:
        """Say once of each unknown feature that it is ignored."""
        for name in ignored.keys() - self._warned:
            self._warned.add(name)
            self._reporter.say(
                "feature-ignored",
                feature=name,
                seen=ignored[name],
                reason="no field of features.fields has that name; add it, or stop sending it. With "
                "features.unknown = 'refuse' such records are dead letters",
            )

    def _progress(self, numbers: TrainerNumbers) -> None:
        if numbers.recent is None or numbers.lifetime is None:
            return
        learned = numbers.events["learned"]
        self._reporter.progress(
            learned=learned,
            events_per_second=round(self._rate.of(learned)),
            lag_entries=sum(numbers.lag_entries.values()),
            log_loss=round(numbers.lifetime.log_loss, 4),
            recent_log_loss=round(numbers.recent.log_loss, 4),
            recent_auc=round(numbers.recent.auc, 4),
            recent_calibration=round(numbers.recent.calibration, 3),
            rows=numbers.vocabulary_rows,
            **self._outcomes.progress(),
        )


def _check_predictions(folder: Path) -> None:
    """Raises StateError for a snapshot whose predictions are not finite: the last one stays current."""
    Predictor(open_fixed(folder)).check_finite()


REASONS = (
    ("UTF-8", "encoding"),
    ("Unicode", "encoding"),
    ("is null", "null"),
    ("bytes, more than", "too large"),
    ("too large", "too large"),
    ("nested", "nesting"),
    ("twice", "duplicate key"),
    ("unknown field", "unknown field"),
    ("missing required field", "missing key"),
    ("is not supported", "version"),
    ("ts_ms", "time"),
    ("is not a number", "not a number"),
    ("must be between 0 and 1, got", "probability"),
    ("propensity must be", "probability"),
    ("Expected `", "wrong type"),
    ("expected a ", "wrong type"),
    ("between 0 and 1e+12", "amount"),
    ("event_id", "event id"),
    ("JSON", "not JSON"),
    ("truncated", "not JSON"),
)
"""Classes of dead letters' reasons, by a phrase of the reason: a label must not hold what a sender chose."""


def reason_class(reason: str) -> str:
    """The class of a reason.

    >>> reason_class("JSON is malformed: invalid character (byte 1)")
    'not JSON'
    """
    return next((name for phrase, name in REASONS if phrase.lower() in reason.lower()), "other")


class _Rate:
    """Updates a second, over the last seconds."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def of(self, learned: int) -> float:
        now = time.monotonic()
        self._seen = [(at, count) for at, count in self._seen if now - at < 5.0] + [(now, learned)]
        first, count = self._seen[0]
        return (learned - count) / (now - first) if now > first else 0.0
