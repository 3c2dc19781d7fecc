"""Builds the report from the watcher's sums."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stream_ctr.config.settings import Settings
from stream_ctr.experiments.report.model import (
    Arm,
    ArmPoint,
    Comparison,
    Exclusion,
    Gap,
    Horizon,
    Model,
    Point,
    Progress,
    Report,
    SampleRatio,
    WatchSettings,
)
from stream_ctr.experiments.report.text import (
    UNSOUND,
    leading,
    notes,
    sentence,
    split_fault,
    verdict,
    warnings,
)
from stream_ctr.experiments.statistics.estimates import entropy
from stream_ctr.experiments.watcher.comparison_members import FAULTS
from stream_ctr.experiments.watcher.experiment import Experiment
from stream_ctr.experiments.watcher.figures import DEFINITIONS, PER_MILLE, withheld
from stream_ctr.experiments.watcher.windows import End, Totals


def build_report(
    experiment: Experiment,
    settings: Settings,
    progress: Progress,
    *,
    now_ms: int,
    models: Sequence[Model] = (),
    gaps: Sequence[Gap] = (),
    earlier: Sequence[str] = (),
) -> Report:
    """The report on the experiment's closed windows.

    Args:
        experiment: sums, users and windows.
        settings: the watcher's configuration.
        progress: progress of the watcher; ``final_until_ms`` is filled in here.
        now_ms: wall-clock time.
        models: newest snapshot of each arm, in the order of the arms.
        gaps: spans in which servers could not log impressions.
        earlier: salts of earlier experiments.
    """
    ends = experiment.noted.ends
    exclusions = _exclusions(experiment)
    split = _sample_ratio(experiment, exclusions)
    report = Report(
        experiment=experiment.config.name,
        salt=experiment.config.salt,
        generated_ms=now_ms,
        coverage=experiment.config.coverage,
        sample_ratio=split,
        arms=_arms(experiment, list(models) or [Model() for _ in experiment.names]),
        comparisons=_comparisons(experiment, split),
        definitions=list(DEFINITIONS),
        series=_series(experiment, split),
        progress=msgspec.structs.replace(progress, final_until_ms=ends[-1].end_ms if ends else None),
        excluded=dict(experiment.noted.excluded),
        exclusions=exclusions,
        gaps=list(gaps),
        settings=_settings(experiment, settings),
        earlier=list(earlier),
    )
    for comparison in report.comparisons:
        comparison.verdict, comparison.leading = sentence(comparison, report), leading(comparison)
    report.verdict = verdict(report)
    report.warnings = warnings(report)
    report.notes = notes(report, capless=experiment.capless)
    return report


def _exclusions(experiment: Experiment) -> list[Exclusion]:
    noted, names = experiment.noted, experiment.names
    members = [sum(reasons.values()) for reasons in noted.reasons]
    faults = sum(noted.excluded[why] for why in FAULTS)
    judged, every = sum(members) + faults, sum(members) + sum(noted.excluded.values())
    of_arms = [
        count + sum(noted.excluded_arms[why][arm] for why in FAULTS) for arm, count in enumerate(members)
    ]
    found = []
    for why, number in noted.excluded.items():
        if not number:
            continue
        fault, by_arm = why in FAULTS, noted.excluded_arms[why]
        shares = [count / whole if whole else 0.0 for count, whole in zip(by_arm, of_arms, strict=True)]
        found.append(
            Exclusion(
                reason=why,
                fault=fault,
                impressions=number,
                share=number / (judged if fault else every),
                arms={name: count for name, count in zip(names, by_arm, strict=True) if count},
                arm_shares={
                    name: share for name, share in zip(names, shares, strict=True) if fault and share
                },
            )
        )
    return found


def _sample_ratio(experiment: Experiment, exclusions: list[Exclusion]) -> SampleRatio:
    whole = sum(experiment.expected)
    tested = [index for index, weight in enumerate(experiment.expected) if weight > 0.0]
    p_value, level = experiment.users.p_value, experiment.watch.split_level
    faults = [each for each in exclusions if each.fault]
    split = SampleRatio(
        users={experiment.names[arm]: int(experiment.users.counts[arm]) for arm in tested},
        expected={experiment.names[arm]: experiment.expected[arm] / whole for arm in tested},
        p=p_value,
        level=level,
        excluded={
            name: sum(each.arm_shares.get(name, 0.0) for each in faults)
            for name, shadow in zip(experiment.names, experiment.shadow, strict=True)
            if not shadow
        },
        excluded_share=sum(each.share for each in faults),
        max_excluded=experiment.watch.max_excluded,
    )
    split.why = split_fault(split, exclusions)
    split.sound = not split.why
    return split


def _arms(experiment: Experiment, models: list[Model]) -> list[Arm]:
    noted, users, exposure = experiment.noted, experiment.users.counts, experiment.exposure
    last = noted.ends[-1] if noted.ends else None
    met = int(users.sum())
    found = []
    for index, config in enumerate(experiment.config.arms):
        models[index].version = noted.versions[index]
        found.append(
            Arm(
                name=config.name,
                control=index == 0,
                shadow=config.shadow,
                killed=noted.last_reason[index] == "killed",
                weight=config.weight,
                share=int(users[index]) / met if met else None,
                users=int(users[index]),
                impressions=last.totals[index].impressions if last else 0,
                clicks=last.totals[index].clicks if last else 0,
                over_cap=int(exposure.over[index]),
                effective_users=exposure.effective_users(index),
                heaviest_impressions=int(exposure.heaviest[index]),
                heaviest_share=exposure.heaviest_share(index),
                with_bid=int(experiment.sums.priced[index]),
                unusable_bids=int(experiment.sums.unusable_bids[index]),
                reasons=dict(sorted(noted.reasons[index].items())),
                learn_from=config.learn_from,
                model=models[index],
                figures=last.arms[index] if last else {},
                why=dict(noted.reasons_without[index]) if noted.reasons_without else {},
            )
        )
    return found


def _comparisons(experiment: Experiment, split: SampleRatio) -> list[Comparison]:
    noted, names = experiment.noted, experiment.names
    return [
        Comparison(
            arm=name,
            control=names[0],
            level=experiment.comparison_level,
            figures=noted.figures[arm] if split.sound else withheld(noted.figures[arm], UNSOUND),
            horizon=_horizon(experiment, arm, split),
        )
        for arm, name in enumerate(names)
        if arm
    ]


def _horizon(experiment: Experiment, arm: int, split: SampleRatio) -> Horizon | None:
    impressions, noted = experiment.watch.horizon_impressions, experiment.noted
    if not impressions:
        return None
    if noted.horizon_ms is None:
        return Horizon(impressions=impressions)
    found = noted.horizon[arm]
    return Horizon(
        impressions=impressions,
        reached_ms=noted.horizon_ms,
        figures=found if split.sound else withheld(found, UNSOUND),
    )


def _series(experiment: Experiment, split: SampleRatio) -> list[Point]:
    names, points = experiment.names, []
    before = [Totals() for _ in names]
    for end in experiment.noted.ends:
        points.append(_final_point(end, before, names, split))
        before = end.totals
    now, window_ms = experiment.totals(), experiment.window_ms
    last_ms = points[-1].end_ms if points else None
    for place, (number, shown) in enumerate(experiment.open_windows()):
        start_ms = number * window_ms
        point = Point(start_ms=start_ms, end_ms=start_ms + window_ms, final=False)
        if last_ms is not None:
            point.start_ms = max(start_ms, last_ms)
        for arm, name in enumerate(names):
            # Labels settle in order, so only the first open window can have settled labels.
            since, until = (before[arm], now[arm]) if place == 0 else (now[arm], now[arm])
            point.arms[name] = _arm_point(since, until, shown[arm])
        points.append(point)
    return points


def _final_point(end: End, before: list[Totals], names: list[str], split: SampleRatio) -> Point:
    point = Point(start_ms=end.start_ms, end_ms=end.end_ms, final=True)
    for arm, name in enumerate(names):
        since, until = before[arm], end.totals[arm]
        point.arms[name] = _arm_point(since, until, until.impressions - since.impressions)
        point.arms[name].total = end.arms[arm]
        if arm and split.sound:
            point.comparisons[name] = end.comparisons[arm]
    return point


def _arm_point(since: Totals, until: Totals, shown: int) -> ArmPoint:
    """Figures of the impressions between two totals."""
    impressions, clicks = until.impressions - since.impressions, until.clicks - since.clicks
    scored, scored_clicks = until.scored - since.scored, until.scored_clicks - since.scored_clicks
    loss, predicted = until.loss - since.loss, until.predicted - since.predicted
    area_events = until.auc_events - since.auc_events
    log_loss, rate = _over(loss, scored), _over(scored_clicks, scored)
    mixed = log_loss is not None and rate is not None and 0.0 < rate < 1.0
    return ArmPoint(
        shown=shown,
        impressions=impressions,
        clicks=clicks,
        window={
            "ctr": _over(clicks, impressions),
            "advv": _over(PER_MILLE * (until.worth - since.worth), impressions),
            # Until the first clicks have fixed the clip value it may fall, and the clipped sums with it.
            "advv_clipped": _over(PER_MILLE * max(0.0, until.clipped - since.clipped), impressions),
            "log_loss": log_loss,
            "normalized_entropy": log_loss / entropy(rate) if mixed and log_loss and rate else None,
            "auc": _over(until.auc_weighted - since.auc_weighted, area_events),
            "calibration": _over(predicted, scored_clicks),
        },
    )


def _over(sum_: float, number: float) -> float | None:
    return sum_ / number if number > 0 else None


def _settings(experiment: Experiment, settings: Settings) -> WatchSettings:
    watch = experiment.watch
    return WatchSettings(
        level=watch.level,
        planned_impressions=watch.planned_impressions,
        window_seconds=watch.window_seconds,
        label_window_seconds=settings.join.window_seconds,
        clip_quantile=watch.clip_quantile,
        clip_value=experiment.sums.clip_value,
        horizon_impressions=watch.horizon_impressions,
        user_impressions=experiment.exposure.cap,
    )
