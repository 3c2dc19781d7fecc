"""The trainer's state as a fold: core = apply(core, entry), for each entry of the order.

Nothing here reads the wall clock, a file or the log. The same entries give the same bits, in chunks of any
size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stream_ctr.batch import LEARN, Batch
from stream_ctr.config.experiment import Arm
from stream_ctr.config.features import FieldConfig, slot_fields
from stream_ctr.config.settings import Settings
from stream_ctr.events.log import Entry
from stream_ctr.learners.base import Learner, LearnResult
from stream_ctr.learners.build import build_learner
from stream_ctr.metrics.progressive import ProgressiveMetrics
from stream_ctr.pipeline.join_stage import JoinStage
from stream_ctr.pipeline.joining.segments import SegmentFolder
from stream_ctr.pipeline.labelled_stage import LabelledStage
from stream_ctr.pipeline.ordering.entry import OrderedEntry
from stream_ctr.pipeline.stage import Stage
from stream_ctr.pipeline.stream import Applied, Pipeline
from stream_ctr.state.frozen import FrozenState
from stream_ctr.state.state import State, stored_integer


@dataclass(frozen=True, slots=True)
class Step:
    """The result of applying a chunk of entries."""

    batch: Batch
    result: LearnResult
    rejected: list[tuple[Entry, str]]
    """Entries for the dead letters, each with its reason."""


def build_pipeline(
    settings: Settings,
    arm: Arm,
    fields: tuple[FieldConfig, ...],
    partitions: int,
    segments: SegmentFolder | None = None,
) -> Pipeline:
    """The pipeline of one arm, over the topics that its trainer reads.

    Raises:
        StreamCTRError: the settings contradict each other.
    """
    stage: JoinStage | LabelledStage
    if settings.join.input == "labelled":
        stage = LabelledStage(settings.log.labelled, partitions)
    else:
        topics = settings.log.impressions, settings.log.clicks
        stage = JoinStage(settings.join, *topics, partitions, segments)
    return Pipeline(fields, settings.features, settings.join, arm.name, stage, arm.learn_from)


class Core:
    """Pipeline, learner and metrics of one arm."""

    def __init__(
        self,
        settings: Settings,
        arm: Arm,
        fields: tuple[FieldConfig, ...],
        partitions: int,
        segments: SegmentFolder | None = None,
    ) -> None:
        self.pipeline = build_pipeline(settings, arm, fields, partitions, segments)
        self.learner: Learner = build_learner(
            arm.model, arm.optimizer, arm.learner, slot_fields(fields), len(fields), self.pipeline.labels.loss
        )
        self.rebuilds = arm.learner.rebuild
        """Whether the learner has no saved state, so that every start learns the log again."""
        self.metrics = ProgressiveMetrics(settings.train.metrics_window)
        self.learned = 0
        """Number of updates."""
        self.non_finite = 0
        """Updates that were skipped because they were not finite."""

    @property
    def stage(self) -> Stage:
        """The pipeline's stage, which knows the position in the log."""
        return self.pipeline.stage

    @property
    def unfinished(self) -> bool:
        """Whether impressions wait for a label that the end of the log would settle."""
        return self.stage.open_impressions > 0

    def apply(self, entries: Sequence[OrderedEntry]) -> Step:
        """Apply entries in order: pipeline, learner, :meth:`measure`."""
        applied = self.pipeline.apply(entries)
        return self.measure(applied, self.learner.learn(applied.batch))

    def measure(self, applied: Applied, result: LearnResult) -> Step:
        """Update the metrics with the learner's result for a batch; called in the order of the batches.

        The pipeline may already have applied later entries, because it does not depend on the learner.
        """
        batch = applied.batch
        self.metrics.update(batch, result.probability)
        skipped = int(result.skipped.sum())
        self.non_finite += skipped
        self.learned += int((batch.action & LEARN != 0).sum()) - skipped
        return Step(batch, result, applied.rejected)

    def parts(self) -> dict[str, State]:
        """The complete state, by part, for a checkpoint."""
        return {
            "pipeline": self.pipeline.state(),
            "learner": self.learner.state(),
            "metrics": self.metrics.state(),
            "totals": State({}, {"learned": self.learned, "non_finite": self.non_finite}),
        }

    def freeze(self) -> dict[str, FrozenState]:
        """The state as in :meth:`parts`, to be written in another thread while the core continues.

        No other thread may use pipeline or learner during this call. Each part must be closed after reading.
        """
        return {
            "pipeline": self.pipeline.freeze(),
            "learner": FrozenState.of(self.learner),
            "metrics": FrozenState.of(self.metrics),
            "totals": FrozenState({}, {"learned": self.learned, "non_finite": self.non_finite}),
        }

    def load_parts(self, parts: dict[str, State]) -> None:
        """Load a state that :meth:`parts` returned.

        Raises:
            StateError: it does not fit this configuration.
        """
        self.pipeline.load_state(parts["pipeline"])
        self.learner.load_state(parts["learner"])
        self.metrics.load_state(parts["metrics"])
        self.learned = stored_integer(parts["totals"], "learned")
        self.non_finite = stored_integer(parts["totals"], "non_finite")
