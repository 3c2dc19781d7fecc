"""The watcher's pipeline: the trainer's order and join stage, with the experiment in place of the learner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stream_ctr.config.join import JoinConfig
from stream_ctr.errors import ConfigError
from stream_ctr.events.log import Entry
from stream_ctr.experiments.watcher.experiment import Experiment
from stream_ctr.pipeline.join_stage import Admitted, JoinStage
from stream_ctr.pipeline.joining.joiner import Labelled
from stream_ctr.pipeline.labelled_stage import FinalLabel, LabelledStage, check_final
from stream_ctr.pipeline.ordering.entry import OrderedEntry
from stream_ctr.state.frozen import FrozenState
from stream_ctr.state.state import State


def settling(join: JoinConfig) -> JoinConfig:
    """The join settings with which every label settles once, in the order of the impressions.

    Label policies that release labels early are for the trainer; an experiment counts final labels.
    """
    return replace(join, policy="wait", release="window")


def check_labelled(join: JoinConfig) -> None:
    """Check that an experiment can be watched on a labelled topic.

    Raises:
        ConfigError: the topic's labels are not final, or not in the order of the impressions.
    """
    if join.release != "window":
        raise ConfigError(
            f"join.release = {join.release!r} writes clicked impressions to the labelled topic before the "
            "others, so no window of an experiment is complete; set join.release = 'window'"
        )
    check_final(join)


class WatchPipeline:
    """Counts the impressions and labels of a stage in an experiment.

    Args:
        experiment: counts impressions and labels.
        stage: turns entries into impressions and labels, which settle in the order of the impressions.
        window_ms: length of the label window.
    """

    def __init__(self, experiment: Experiment, stage: JoinStage | LabelledStage, window_ms: int) -> None:
        self.experiment, self.stage, self._window_ms = experiment, stage, window_ms

    @property
    def outcomes(self) -> dict[str, int]:
        """Counters of the stage."""
        return self.stage.outcomes

    def apply(self, entries: Sequence[OrderedEntry]) -> list[tuple[Entry, str]]:
        """Apply the next entries of the order; returns the unusable ones, each with its reason.

        Raises:
            StateError: these are not the entries that follow the ones applied so far.
        """
        # An end mark closes the open window, so the entries after it must be applied separately.
        start = 0
        for place, ordered in enumerate(entries):
            if ordered.entry is None:
                self._apply(entries[start : place + 1], ended=True)
                start = place + 1
        self._apply(entries[start:], ended=False)
        return self.stage.progress.take_rejected()

    def _apply(self, entries: Sequence[OrderedEntry], *, ended: bool) -> None:
        if not entries:
            return
        for item in self.stage.apply(entries):
            if isinstance(item, Labelled):
                time_ms = max(item.ts_ms, item.time_ms)
                self.experiment.settled(item.payload, item.number, time_ms, item.label)
            elif isinstance(item, Admitted):
                self._admitted(item)
            else:
                self._final(item)
        self.experiment.absorb(self.stage.watermark_ms, ended=ended)

    def _admitted(self, admitted: Admitted) -> None:
        stage, record = self.stage, admitted.record
        assert isinstance(stage, JoinStage)
        stage.hold(admitted, self.experiment.shown(record, max(record.ts_ms, stage.watermark_ms)))

    def _final(self, item: FinalLabel) -> None:
        # A label is written at the end of its window, so the window began that much earlier.
        time_ms = max(0, item.time_ms - self._window_ms)
        payload = self.experiment.shown(item.impression, time_ms)
        self.experiment.settled(payload, item.number, time_ms, item.label)

    def freeze(self) -> FrozenState:
        """The state without the experiment's sums, to be written in another thread."""
        return FrozenState.gather(self.stage.parts())

    def state(self) -> State:
        """The state without the experiment's sums, as a copy."""
        return self.freeze().thaw()

    def load_state(self, state: State) -> None:
        """Load a state that :meth:`state` or :meth:`freeze` returned.

        Raises:
            StateError: it is damaged, or belongs to other topics or partitions.
        """
        self.stage.load_parts(state)
