"""The trainer's state as a fold: core = apply(core, entry), entry by entry, in the order's order.

Nothing here reads a clock, a file or the log. The same entries give the same bits, in chunks of any size.
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
    """What a chunk of entries came to."""

    batch: Batch
    result: LearnResult
    rejected: list[tuple[Entry, str]]
    """Entries for the dead letters, with the reason."""


def build_pipeline(
    settings: Settings,
    arm: Arm,
    fields: tuple[FieldConfig, ...],
    partitions: int,
    segments: SegmentFolder | None = None,
) -> Pipeline:
    """The pipeline of one arm, over the topics that its trainer reads.

    Raises:
        StreamCTRError: the settings do not make sense together.
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
        """Whether the learner has no state: a start learns the log again."""
        self.metrics = ProgressiveMetrics(settings.train.metrics_window)
        self.learned = 0
        """Updates made."""
        self.non_finite = 0
        """Updates left out because they were not finite."""

    @property
    def stage(self) -> Stage:
        """Where the pipeline is in the log."""
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
        """Take in what the learner made of the pipeline's batch; in the order of the batches.

        The pipeline may be ahead: what it does to later entries depends on nothing learned.
        """
        batch = applied.batch
        self.metrics.update(batch, result.probability)
        skipped = int(result.skipped.sum())
        self.non_finite += skipped
        self.learned += int((batch.action & LEARN != 0).sum()) - skipped
        return Step(batch, result, applied.rejected)

    def parts(self) -> dict[str, State]:
        """Everything that decides what happens next, by part, for a checkpoint."""
        return {
            "pipeline": self.pipeline.state(),
            "learner": self.learner.state(),
            "metrics": self.metrics.state(),
            "totals": State({}, {"learned": self.learned, "non_finite": self.non_finite}),
        }

    def freeze(self) -> dict[str, FrozenState]:
        """What :meth:`parts` gives, to be written in another thread while the core goes on. Pipeline and
        learner must be at rest, and each part closed when it is read."""
        return {
            "pipeline": self.pipeline.freeze(),
            "learner": FrozenState.of(self.learner),
            "metrics": FrozenState.of(self.metrics),
            "totals": FrozenState({}, {"learned": self.learned, "non_finite": self.non_finite}),
        }

    def load_parts(self, parts: dict[str, State]) -> None:
        """Become the core that handed out ``parts``.

        Raises:
            StateError: they do not fit this configuration.
        """
        self.pipeline.load_state(parts["pipeline"])
        self.learner.load_state(parts["learner"])
        self.metrics.load_state(parts["metrics"])
        self.learned = stored_integer(parts["totals"], "learned")
        self.non_finite = stored_integer(parts["totals"], "non_finite")
