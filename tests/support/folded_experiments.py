"""Experiments played into the fold without a log: quick enough for many states and many seeds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stream_ctr.config.experiment import ArmConfig, ExperimentConfig
from stream_ctr.config.settings import Settings
from stream_ctr.config.watch import WatchConfig
from stream_ctr.events.records import Impression
from stream_ctr.experiments.assignment import Assigner
from stream_ctr.experiments.report.model import Progress, Report
from stream_ctr.experiments.watcher.experiment import Experiment
from stream_ctr.experiments.watcher.report_builder import build_report

START_MS = 1_700_000_000_000
WINDOW_MS = 5_000
"""Label window."""
ARMS = (ArmConfig("control", 0.5), ArmConfig("new", 0.5))
EXPERIMENT = ExperimentConfig(salt="one", arms=ARMS)
WATCH = WatchConfig(window_seconds=20.0, planned_impressions=5_000.0)


@dataclass(frozen=True)
class Shown:
    """One impression and its label."""

    record: Impression
    label: float


class Stage:
    """Makes impressions of users, assigned as a server does."""

    def __init__(self, experiment: ExperimentConfig = EXPERIMENT) -> None:
        self.experiment = experiment
        self._assigner = Assigner(experiment)
        self._number = 0

    def show(self, user: str, click: bool, bid: float = 1.0, p: float = 0.1) -> Shown:
        """The next impression, 20 ms after the last."""
        found = self._assigner.assign(user)
        arm = found.arm or "control"
        self._number += 1
        record = Impression(
            v=1,
            event_id=f"e{self._number}",
            ts_ms=START_MS + 20 * self._number,
            features={},
            user=user,
            bid=bid,
            p={
                each.name: p if each.name == "control" else min(0.9, 1.1 * p) for each in self.experiment.arms
            },
            experiment=self.experiment.name,
            salt=self.experiment.salt,
            bucket=found.bucket,
            assigned_arm=found.arm or "",
            arm=arm,
            reason="assigned" if found.arm else "not_enrolled",
        )
        return Shown(record, float(click))

    def of_arm(self, arm: str, prefix: str) -> str:
        """A user who is assigned to ``arm``."""
        return next(u for n in range(999) if self._assigner.assign(u := f"{prefix}{n}").arm == arm)

    def ordinary(
        self,
        users: int,
        impressions: int,
        seed: int = 0,
        rate: float = 0.1,
        uplift: float = 0.0,
        bid: float = 1.0,
    ) -> list[Shown]:
        """Users who are alike but for the arm that they are in; half of the bids are twice ``bid``."""
        draws = np.random.default_rng(seed)
        found = []
        for number in range(impressions):
            user = f"u{seed}-{number % users}"
            factor = 1.0 + uplift if self._assigner.assign(user).arm == "new" else 1.0
            click = bool(draws.random() < rate * factor)
            noise = float(np.exp(0.3 * draws.standard_normal()))
            found.append(self.show(user, click, bid * (1 + number % 2), min(0.9, rate * noise)))
        return found


def fold(
    shown: list[Shown],
    watch: WatchConfig = WATCH,
    experiment: ExperimentConfig = EXPERIMENT,
    chunk: int = 1_000,
) -> Experiment:
    """The experiment after all of it, every window closed."""
    found = Experiment(experiment, watch, WINDOW_MS)
    play(found, shown, chunk)
    return found


def play(experiment: Experiment, shown: list[Shown], chunk: int = 1_000, first: int = 0) -> None:
    """Apply impressions with their labels, and close the windows."""
    time_ms = START_MS
    for start in range(0, len(shown), chunk):
        for number, each in enumerate(shown[start : start + chunk], start=first + start):
            time_ms = each.record.ts_ms
            experiment.settled(experiment.shown(each.record, time_ms), number, time_ms, each.label)
        experiment.absorb(time_ms)
    experiment.absorb(time_ms, ended=True)


def report(experiment: Experiment) -> Report:
    """What the watcher writes of it."""
    return build_report(experiment, Settings(), Progress(), now_ms=START_MS)


def judged(shown: list[Shown], *, user_impressions: int = 1_000, max_excluded: float = 0.01) -> Report:
    """The report of these impressions."""
    watch = replace(WATCH, user_impressions=user_impressions, max_excluded=max_excluded)
    return report(fold(shown, watch))
