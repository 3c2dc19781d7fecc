"""The experiment as a fold over impressions and settled labels, in the merged order of the log's entries.

This module reads no clock, file or log. The same entries give bit-identical results in chunks of any size.
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
from stream_ctr.experiments.watcher.comparison_members import EXCLUDED, NO_ARM, Members
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
    """Users and labelled rows of the current chunk, before :meth:`Experiment.absorb` adds them up."""

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
        watch: settings declared before the first impression.
        settling_ms: time from an impression until its label is settled: label window plus grace.

    Raises:
        ConfigError: weights or coverage are invalid.
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
        self._pack = struct.Struct(f"<hhdd{arms}dQ").pack  # the same layout as row_type
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
        """Count a new impression; returns the payload to keep until its label settles.

        The payload is empty if the impression is excluded. ``time_ms`` is the start of its label window.
        """
        serving = self._members.serving(record)
        if serving != NO_ARM:
            self.noted.versions[serving] = record.model_version
        excluded, bucket, arm, user = self._members.find(record)
        if excluded:
            self.noted.excluded[excluded] += 1
            named = self._members.named(record)
            if named != NO_ARM:
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
        probabilities = [p.get(name, NAN) for name in self.names]
        return self._pack(arm, bucket, record.bid, p.get(record.arm, NAN), *probabilities, user)

    def settled(self, payload: bytes, number: int, time_ms: int, label: float) -> None:
        """Record the settled label of an impression; must be called in order of ``time_ms``.

        Args:
            payload: return value of :meth:`shown`.
            number: running number of the impression.
            time_ms: start of its label window.
            label: 1 for a click, else 0.
        """
        if payload and number >= self.noted.first_number:
            waiting = self._waiting
            waiting.rows.append(payload)
            waiting.labels.append(label)
            waiting.times_ms.append(time_ms)
            waiting.numbers.append(number)

    def absorb(self, watermark_ms: int, *, ended: bool = False) -> None:
        """Add the pending impressions to the sums, and close the windows that are complete.

        Args:
            watermark_ms: event time that the merged log has reached.
            ended: whether the log ends here, which closes the open window.
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
        # Payloads from an earlier version have no user: zero padding makes them UNKNOWN_USER.
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
            counted, counted_labels = rows[part][kept], labels[part][kept]
            self.sums.add(counted, counted_labels)
            bucket = counted["bucket"].astype(np.int64)
            self._scores.add(numbers[part][kept], bucket, counted["p"], counted_labels)

    def _close(self, end_ms: int) -> None:
        """Close the open window, whose labels are all settled, and compute its figures."""
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
        """Take the declared look if it is due; it is taken only once."""
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
        """Totals of each arm over all impressions settled so far."""
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
        """Open windows: number, and impressions shown by arm."""
        return [(number, list(shown)) for number, shown in sorted(self._shown.items())]

    def _every_pool(self) -> list[AreaPool]:
        return [*self._pools, *self._pair_pools]

    def state(self) -> State:
        """The complete state; call it only after :meth:`absorb`.

        Raises:
            StateError: there are impressions that are not added up yet.
        """
        if self._waiting != Waiting():
            raise StateError(
                "the experiment's state was requested before a chunk was added up; this is a defect"
            )
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
        """Whether an earlier version declared the experiment, without a cap on impressions per user."""
        return "user_impressions" not in self.noted.declared

    def load_state(self, state: State) -> None:
        """Restore the experiment from :meth:`state`; its declaration must be the same.

        An experiment that an earlier version started continues as declared, without a cap on impressions per
        user. Its heavy-user shares and exclusions by arm then cover only impressions read since the update.

        Raises:
            StateError: the state is damaged.
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
            self._recompute_verdicts()

    def _recompute_verdicts(self) -> None:
        """Apply this version's minimum numbers of users to figures from an earlier version.

        Sums are kept by bucket, so the latest figures can be recomputed. The intervals at the ends of earlier
        windows cannot and are dropped.
        """
        noted = self.noted
        for end in noted.ends:
            end.arms = [_without_intervals(figures) for figures in end.arms]
            end.comparisons = [_without_intervals(figures) for figures in end.comparisons]
        if noted.window is None:
            compared = ConfidenceSequence(self.comparison_level, self.watch.planned_impressions)
            noted.figures = [figures(self._compare(arm), compared) for arm in range(self.arms)]
        else:  # the sums already contain labels of the open window: figures follow when it closes
            wait = "started under an earlier version; available when the open window closes"
            noted.figures = [
                {name: Figure(impressions=each.impressions, why=wait) for name, each in found.items()}
                for found in noted.figures
            ]


def _without_intervals(found: dict[str, Bounded]) -> dict[str, Bounded]:
    return {name: Bounded(estimate=each.estimate) for name, each in found.items()}
