"""What may be said of an experiment, in plain sentences."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from stream_ctr.experiments.report_model import Comparison, Figure, Report
from stream_ctr.experiments.sequence import FIRST_LOOK_BUCKETS, FIRST_LOOK_CLICKS

_EFFECTS: Final = (("ctr_uplift", "CTR"), ("advv_uplift", "ADVV"))
_PREDICTION: Final = "log_loss"


def verdict(report: Report) -> list[str]:
    """The most important first: the split, then each arm."""
    split = report.sample_ratio
    if not split.sound:
        users = ", ".join(f"{name} {count:,}" for name, count in split.users.items())
        return [
            f"The split is not sound: users met in the arms ({users}) do not fit their shares "
            f"(p = {split.p:.2g}). Something loses or moves users. No effect may be read until it is found."
        ]
    if len(report.arms) == 1:
        return [f"{report.arms[0].name} is the only arm: there is nothing to compare."]
    first = "The split of users is sound." if sum(split.users.values()) else "No user was met yet."
    killed = [
        f"{arm.name} is switched off: its users are answered by {report.arms[0].name}."
        for arm in report.arms
        if arm.killed
    ]
    return [first, *killed, *(comparison.verdict for comparison in report.comparisons)]


def sentence(comparison: Comparison, report: Report) -> str:
    """What may be said of one arm."""
    arm, figures = comparison.arm, comparison.figures
    if not figures:
        return f"{arm}: no window has closed yet."
    if any(figure.verdict == "withheld" for figure in figures.values()):
        return f"{arm}: withheld, as the split is not sound."
    said = [_effect(title, figures[name]) for name, title in _EFFECTS if name in figures]
    said.append(_prediction(figures[_PREDICTION]))
    shadow = any(each.name == arm and each.shadow for each in report.arms)
    who = f"{arm} (shadow, answers nobody)" if shadow else arm
    return f"{who} against {comparison.control}: {'; '.join(said)}."


def _effect(title: str, figure: Figure) -> str:
    if figure.verdict == "early" or figure.estimate is None:
        return (
            f"{title}: too early, an interval needs {FIRST_LOOK_CLICKS} clicks and {FIRST_LOOK_BUCKETS} "
            "buckets of users in each arm"
        )
    span = f"interval {signed(figure.low)} to {signed(figure.high)}"
    if figure.verdict == "unknown":
        return f"{title}: not known to differ yet ({signed(figure.estimate)}, {span})"
    return f"{title} is {figure.verdict} ({signed(figure.estimate)}, {span})"


def _prediction(figure: Figure) -> str:
    if figure.verdict == "early" or figure.estimate is None:
        return "predictions: too early"
    low, high = figure.low or 0.0, figure.high or 0.0
    span = f"log loss {figure.estimate:+.4f} nats, interval {low:+.4f} to {high:+.4f}"
    if figure.verdict == "unknown":
        return f"predictions: not known to differ yet ({span})"
    return f"it predicts {figure.verdict} ({span})"


def notes(report: Report) -> list[str]:
    """What a reader should know besides."""
    found = [_measured(report)]
    progress, settings = report.progress, report.settings
    if progress.final_until_ms is not None:
        found.append(
            f"Figures are final: they are of impressions shown before {moment(progress.final_until_ms)}, "
            f"whose labels (clicked within {settings.label_window_seconds:g} s) are settled. "
            f"{progress.open_impressions:,} later ones wait for theirs."
        )
    if report.comparisons:
        level = report.comparisons[0].level
        split = f", level {settings.level:g} split over {len(report.comparisons)} comparisons"
        found.append(
            "Intervals may be looked at as often as one likes: for one figure, the truth is inside at all "
            f"looks together with probability {1 - level:.4g}{split if len(report.comparisons) > 1 else ''}."
        )
    if settings.horizon_impressions:
        found.append(_horizon(report))
    found += _left_out(report)
    if not progress.log_up:
        found.append("The log does not answer: this is what was known before.")
    return found


def _measured(report: Report) -> str:
    sources = {arm.learn_from for arm in report.arms}
    if sources == {"own"}:
        return (
            "Each arm learns from the impressions that it served: what is measured is one system against "
            "another, each with the data that it makes for itself."
        )
    if sources == {"all"}:
        return (
            "Arms learn from all traffic: what is measured is serving one model against another, not the "
            "systems apart."
        )
    own = ", ".join(arm.name for arm in report.arms if arm.learn_from == "own")
    return (
        f"Only {own} learns from its own impressions, the others from all traffic: what is measured mixes "
        "the models with the data that they learn from."
    )


def _horizon(report: Report) -> str:
    reached = next((c.horizon.reached_ms for c in report.comparisons if c.horizon is not None), None)
    declared = f"One look at ordinary intervals was declared for {report.settings.horizon_impressions:,} "
    if reached is None:
        shown = sum(arm.impressions for arm in report.arms)
        return f"{declared}impressions; there are {shown:,}."
    return f"{declared}impressions; it was taken at {moment(reached)} and stands."


def _left_out(report: Report) -> list[str]:
    found, excluded = [], report.excluded
    named = {
        "inconsistent": "carry a bucket that is not their user's, or not their arm's",
        "unknown_arm": "are of arms that the configuration does not name",
        "no_user": "have no user",
        "other_salt": "are of another experiment",
    }
    for why, text in named.items():
        if excluded.get(why):
            found.append(f"{excluded[why]:,} impressions {text}; they are in no comparison.")
    outcomes = report.progress.outcomes
    late = outcomes.get("impressions_late", 0) + outcomes.get("impressions_ahead", 0)
    if late:
        found.append(f"{late:,} impressions came too late, or too far ahead of the others, to be joined.")
    if outcomes.get("clicks_too_late"):
        found.append(
            f"{outcomes['clicks_too_late']:,} clicks were in time and came through the log after their label "
            "was settled: they count as none."
        )
    if outcomes.get("rejected"):
        found.append(f"{outcomes['rejected']:,} entries of the log are no usable records.")
    if report.gaps:
        dropped = sum(gap.dropped for gap in report.gaps)
        lasting = " (one lasts)" if any(gap.end_ms is None for gap in report.gaps) else ""
        found.append(
            f"Servers could not log impressions in {len(report.gaps)} span{_s(len(report.gaps))}{lasting}; "
            f"{dropped:,} were lost and are in no figure."
        )
    return found


def _s(number: int) -> str:
    return "" if number == 1 else "s"


def signed(value: float | None) -> str:
    """A relative difference in percent."""
    return "unknown" if value is None else f"{100 * value:+.1f} %"


def moment(time_ms: int) -> str:
    """A time for people, UTC."""
    return datetime.fromtimestamp(time_ms / 1000.0, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
