"""The experiment as a fold: impressions as they are shown and as their labels settle, in the order's order.

Nothing here reads a clock, a file or the log. The same entries give the same bits, in chunks of any size.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np

from stream_ctr.config.experiment import BUCKETS, ExperimentConfig, intervals
from stream_ctr.config.watch import WatchConfig
from stream_ctr.errors import StateError
from stream_ctr.events.records import ImpressionRecord
from stream_ctr.experiments.report.model import Bounded, Figure
from stream_ctr.experiments.statistics.confidence_sequence import ConfidenceSequence
from stream_ctr.experiments.statistics.delong import AreaPool
from stream_ctr.experiments.statistics.estimates import Estimate
from stream_ctr.experiments.watcher.comparison_members import EXCLUDED, NOBODY, Members
from stream_ctr.experiments.watcher.experiment_state import Noted, declaration
from stream_ctr.experiments.watcher.exposure import Exposure
from stream_ctr.experiments.watcher.figures import (
    Estimates,
    arm_estimates,
    bounded,
    comparison_estimates,
    figures,
    fixed_figures,
)
from stream_ctr.experiments.watcher.sums import BucketSums, row_type
from stream_ctr.experiments.watcher.user_table import UserTable
from stream_ctr.experiments.watcher.users import DistinctUsers
from stream_ctr.experiments.watcher.windows import End, Scores, Totals, pools, thinned
from stream_ctr.state.state import State

NAN: Final = float("nan")


@dataclass(slots=True)
class Waiting:
    """What a chunk came to, before it is added up."""

    users: list[int] = field(default_factory=list)
    arms: list[int] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    times_ms: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)


class Experiment:
    """One experiment's sums, users and closed windows.

    Args:
        experiment: arms, weights and salt.
        watch: what was declared beforehand.
        settling_ms: a label is settled so long after its impression: label window and grace.

    Raises:
        ConfigError: weights or coverage are unusable.
    """

    def __init__(self, experiment: ExperimentConfig, watch: WatchConfig, settling_ms: int) -> None:
        self.config, self.watch = experiment, watch
        self.names = [arm.name for arm in experiment.arms]
        self.shadow = [arm.shadow for arm in experiment.arms]
        arms = len(self.names)
        self.arms = arms
        self.window_ms = max(1, round(watch.window_seconds * 1000.0))
        self.comparison_level = watch.level / max(1, arms - 1)
        owned = {each.arm: each.stop - each.start for each in intervals(experiment)}
        self.expected = [0.0 if s else float(owned[n]) for n, s in zip(self.names, self.shadow, strict=True)]
        self._settling_ms = settling_ms
        self._members = Members(experiment)
        self._row_type = row_type(arms)
        self._pack = struct.Struct(f"<hhdd{arms}dQ").pack  # the same bytes
        table = UserTable()
        self.users = DistinctUsers(self.expected, table)
        self.exposure = Exposure(arms, watch.user_impressions, table)
        self.sums = BucketSums(arms, watch.clip_quantile)
        self.noted = Noted(
            declaration(experiment, watch),
            excluded=dict.fromkeys(EXCLUDED, 0),
            excluded_arms={why: [0] * arms for why in EXCLUDED},
            reasons=[{} for _ in range(arms)],
            last_reason=[""] * arms,
            versions=[""] * arms,
            figures=[{} for _ in range(arms)],
        )
        self._scores = Scores(arms)
        self._pools, self._pair_pools = pools(arms), pools(arms)
        self._shown: dict[int, list[int]] = {}
        self._waiting = Waiting()

    def shown(self, record: ImpressionRecord[Any], time_ms: int) -> bytes:
        """Note an impression that is new; what is to be held of it until its label settles.

        Empty where it is in no comparison. ``time_ms`` is where its label window begins.
        """
        serving = self._members.serving(record)
        if serving != NOBODY:
            self.noted.versions[serving] = record.model_version
        excluded, bucket, arm, user = self._members.find(record)
        if excluded:
            self.noted.excluded[excluded] += 1
            named = self._members.named(record)
            if named != NOBODY:
                self.noted.excluded_arms[excluded][named] += 1
            return b""
        reasons = self.noted.reasons[arm]
        reasons[record.reason] = reasons.get(record.reason, 0) + 1
        self.noted.last_reason[arm] = record.reason
        self._waiting.users.append(user)
        self._waiting.arms.append(arm)
        window = time_ms // self.window_ms
        shown = self._shown.get(window)
        if shown is None:
            shown = self._shown[window] = [0] * self.arms
        shown[arm] += 1
        p = record.p
        said = [p.get(name, NAN) for name in self.names]
        return self._pack(arm, bucket, record.bid, p.get(record.arm, NAN), *said, user)

    def settled(self, payload: bytes, number: int, time_ms: int, label: float) -> None:
        """Note that the label of an impression is settled; calls come in the order of ``time_ms``.

        Args:
            payload: what :meth:`shown` gave.
            number: its running number.
            time_ms: where its label window began.
            label: 1 for a click, else 0.
        """
        if payload and number >= self.noted.first_number:
            waiting = self._waiting
            waiting.rows.append(payload)
            waiting.labels.append(label)
            waiting.times_ms.append(time_ms)
            waiting.numbers.append(number)

    def absorb(self, watermark_ms: int, *, ended: bool = False) -> None:
        """Add up what was noted, and close the windows that end.

        Args:
            watermark_ms: time of the order.
            ended: whether the log ends here: the open window is closed.
        """
        waiting, self._waiting = self._waiting, Waiting()
        if waiting.users:
            self.users.add(np.array(waiting.users, np.uint64), np.array(waiting.arms, np.int64))
        if waiting.rows:
            self._add(waiting)
        window = self.noted.window
        if window is not None:
            end_ms = (window + 1) * self.window_ms
            if end_ms + self._settling_ms <= watermark_ms:
                self._close(end_ms)
            elif ended:
                self._close(min(end_ms, watermark_ms + 1))

    def _add(self, waiting: Waiting) -> None:
        size = self._row_type.itemsize
        # What an earlier version held ends before the user: those are UNKNOWN_USER's.
        rows = np.frombuffer(b"".join(row.ljust(size, b"\0") for row in waiting.rows), self._row_type)
        labels, numbers = np.array(waiting.labels), np.array(waiting.numbers, np.int64)
        windows = np.array(waiting.times_ms, np.int64) // self.window_ms
        counts = self.exposure.take(rows["user"], rows["arm"].astype(np.int64))
        cuts = [0, *(np.flatnonzero(np.diff(windows)) + 1).tolist(), len(rows)]
        for start, stop in itertools.pairwise(cuts):
            window, part = int(windows[start]), slice(start, stop)
            if self.noted.window not in (None, window):
                self._close((self.noted.window + 1) * self.window_ms)
            self.noted.window = window
            kept = counts[part]
            taken, their = rows[part][kept], labels[part][kept]
            self.sums.add(taken, their)
            bucket = taken["bucket"].astype(np.int64)
            self._scores.add(numbers[part][kept], bucket, taken["p"], their)

    def _close(self, end_ms: int) -> None:
        """The labels of the open window are settled: take the figures."""
        window, noted = self.noted.window, self.noted
        assert window is not None
        self._scores.close(self._pools, self._pair_pools)
        sequence = ConfidenceSequence(self.watch.level, self.watch.planned_impressions)
        compared = ConfidenceSequence(self.comparison_level, self.watch.planned_impressions)
        estimates = [self._compare(arm) for arm in range(self.arms)]
        own = [self._judge(arm) for arm in range(self.arms)]
        start_ms = window * self.window_ms
        if noted.ends:
            start_ms = max(start_ms, noted.ends[-1].end_ms)
        end = End(
            start_ms=start_ms,
            end_ms=max(end_ms, start_ms + 1),
            totals=self.totals(),
            arms=[bounded(found, sequence) for found in own],
            comparisons=[bounded(found, compared) for found in estimates],
        )
        noted.ends = thinned([*noted.ends, end])
        noted.figures = [figures(found, compared) for found in estimates]
        noted.reasons_without = [
            {n: judged.why for n, judged in found.items() if judged.why} for found in own
        ]
        self._look(estimates, end.end_ms)
        noted.window = None
        for shown in [number for number in self._shown if number <= window]:
            del self._shown[shown]

    def _look(self, estimates: list[Estimates], end_ms: int) -> None:
        """Take the one look that was declared, when it is due."""
        horizon = self.watch.horizon_impressions
        if horizon and self.noted.horizon_ms is None and int(self.sums.impressions.sum()) >= horizon:
            self.noted.horizon_ms = end_ms
            self.noted.horizon = [fixed_figures(found, self.comparison_level) for found in estimates]

    def _judge(self, arm: int) -> Estimates:
        area = self._pools[arm].estimate()
        return arm_estimates(self.sums, self.names, arm, area, shadow=self.shadow[arm])

    def _compare(self, arm: int) -> Estimates:
        if arm == 0:
            return {}
        area: Estimate = self._pair_pools[arm].estimate()
        return comparison_estimates(self.sums, self.names, arm, area, shadow=self.shadow[arm])

    def totals(self) -> list[Totals]:
        """What each arm came to, with everything settled so far."""
        sums, clipped = self.sums, self.sums.clipped
        return [
            Totals(
                impressions=int(sums.impressions[arm].sum()),
                clicks=int(sums.clicks[arm].sum()),
                worth=float(sums.worth[arm].sum()),
                clipped=float(clipped[arm].sum()),
                scored=int(sums.scored[arm].sum()),
                scored_clicks=int(sums.scored_clicks[arm].sum()),
                loss=float(sums.loss[arm].sum()),
                predicted=float(sums.predicted[arm].sum()),
                auc_events=self._pools[arm].events,
                auc_weighted=self._pools[arm].weighted,
            )
            for arm in range(self.arms)
        ]

    def open_windows(self) -> list[tuple[int, list[int]]]:
        """Windows that are not closed: number, and impressions shown by arm."""
        return [(number, list(shown)) for number, shown in sorted(self._shown.items())]

    def _every_pool(self) -> list[AreaPool]:
        return [*self._pools, *self._pair_pools]

    def state(self) -> State:
        """Everything; call it when what was noted is added up.

        Raises:
            StateError: something noted is not added up.
        """
        if self._waiting != Waiting():
            raise StateError("the experiment's sums were asked for in the middle of a chunk")
        noted = msgspec.structs.replace(
            self.noted,
            shown=self.open_windows(),
            pools=[(pool.events, pool.weighted) for pool in self._every_pool()],
            stride=self._scores.stride,
        )
        arrays = {
            "scores": self._scores.rows(),
            "influence": np.array([pool.influence for pool in self._every_pool()]),
            "filled": np.array([pool.filled for pool in self._every_pool()]),
        }
        own = State(arrays, msgspec.json.decode(msgspec.json.encode(noted)))
        return State.gather(
            {
                "noted": own,
                "users": self.users.state(),
                "sums": self.sums.state(),
                "exposure": self.exposure.state(),
            }
        )

    @property
    def capless(self) -> bool:
        """Whether an earlier version declared the experiment, which knew no cap on impressions of a user."""
        return "user_impressions" not in self.noted.declared

    def load_state(self, state: State) -> None:
        """Become the experiment that handed out ``state``; its declaration must be the same.

        An experiment that an earlier version began continues as declared: without a cap on impressions of a
        user. Its shares of heavy users and its exclusions by arm then cover later impressions only.

        Raises:
            StateError: it is damaged.
        """
        own = state.part("noted")
        try:
            noted = msgspec.convert(own.values, Noted)
            scores = own.arrays["scores"]
            columns = zip(noted.pools, own.arrays["influence"], own.arrays["filled"], strict=True)
            every = [AreaPool(BUCKETS, *sums, moved.copy(), met.copy()) for sums, moved, met in columns]
        except (KeyError, ValueError, msgspec.ValidationError) as error:
            raise StateError(f"saved experiment is damaged: {error}") from None
        self.users.load_state(state.part("users"))
        self.sums.load_state(state.part("sums"))
        self._scores.load(scores, noted.stride)
        self._pools, self._pair_pools = every[: self.arms], every[self.arms :]
        self._shown = {number: list(shown) for number, shown in noted.shown}
        for why in EXCLUDED:
            noted.excluded_arms.setdefault(why, [0] * self.arms)
        self.noted = noted
        if self.capless:
            self.exposure.cap = 0
        if "exposure" in state.values:
            self.exposure.load_state(state.part("exposure"))
        else:
            self._judge_again()

    def _judge_again(self) -> None:
        """Judge what an earlier version left by the rules of this one, which knows when users are too few.

        Sums are kept by bucket, so the latest figures can be made again; the intervals at the ends of earlier
        windows cannot and are dropped.
        """
        noted = self.noted
        for end in noted.ends:
            end.arms = [_without_intervals(figures) for figures in end.arms]
            end.comparisons = [_without_intervals(figures) for figures in end.comparisons]
        if noted.window is None:
            compared = ConfidenceSequence(self.comparison_level, self.watch.planned_impressions)
            noted.figures = [figures(self._compare(arm), compared) for arm in range(self.arms)]
        else:  # labels of the open window are in the sums: its end brings the figures
            wait = "begun under an earlier version; the end of the open window brings the next figures"
            noted.figures = [
                {name: Figure(impressions=each.impressions, why=wait) for name, each in found.items()}
                for found in noted.figures
            ]


def _without_intervals(found: dict[str, Bounded]) -> dict[str, Bounded]:
    return {name: Bounded(estimate=each.estimate) for name, each in found.items()}
