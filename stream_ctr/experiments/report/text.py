"""Sentences of a report: verdicts with their reasons, warnings and notes.

Every sentence is derived from the figures that tables, page and plot display, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from stream_ctr.experiments.report.model import (
    Arm,
    Comparison,
    Exclusion,
    Figure,
    Report,
    SampleRatio,
    Verdict,
)

VERDICT_WORDS: Final[dict[Verdict, str]] = {
    "better": "better",
    "worse": "worse",
    "unknown": "not significant yet",
    "early": "no verdict yet",
    "missing": "no verdict",
    "withheld": "withheld",
}
"""The verdict on one figure, for tables and sentences; the page uses the same words."""
UNSOUND: Final = "the traffic split is not sound"
HEAVY_SHARE: Final = 0.1
"""Share of an arm's impressions at which its most active user causes a warning."""
HEAVY_FROM: Final = 100
"""Impressions that an arm needs for that warning: any user has a large share of the first few."""
_EFFECTS: Final = (("ctr", "CTR"), ("advv", "ADVV"))
_PREDICTION: Final = "log_loss"
_EXCLUDED: Final = {
    "inconsistent": "with a bucket that does not match the user or the arm",
    "unknown_arm": "of an arm that is not configured",
    "no_user": "without a user",
    "other_salt": "of another experiment (different salt)",
    "not_enrolled": "of users who are not enrolled",
    "override": "served by an override",
}
"""Reasons for exclusion, to follow a number of impressions."""


def split_fault(split: SampleRatio, exclusions: Sequence[Exclusion]) -> str:
    """Why the split is not sound; empty if it is."""
    found = []
    if split.p < split.level:
        users = ", ".join(f"{name} {count:,}" for name, count in split.users.items())
        found.append(
            f"sample-ratio mismatch, users per arm ({users}) do not match the expected shares "
            f"(p = {split.p:.2g})"
        )
    shares = [("all", split.excluded_share), *split.excluded.items()]
    who, share = max(shares, key=lambda each: each[1])
    if share > split.max_excluded:
        faults = [each for each in exclusions if each.fault]
        whys = "; ".join(f"{each.impressions:,} {_EXCLUDED[each.reason]}" for each in faults)
        of = "all impressions" if who == "all" else f"{who}'s impressions"
        limit = percent(split.max_excluded)
        found.append(f"{percent(share)} of {of} are excluded, more than the allowed {limit} ({whys})")
    return "; ".join(found)


def verdict(report: Report) -> list[str]:
    """The verdict in sentences, the most important first: the split, then each arm."""
    split = report.sample_ratio
    if not split.sound:
        return [
            f"The traffic split is not sound: {split.why}. Effects are withheld until the cause is found."
        ]
    if len(report.arms) == 1:
        return [f"{report.arms[0].name} is the only arm: there is nothing to compare."]
    killed = [
        f"{arm.name} is switched off: {report.arms[0].name} answers its users."
        for arm in report.arms
        if arm.killed
    ]
    return [_first(report), *killed, *(comparison.verdict for comparison in report.comparisons)]


def _first(report: Report) -> str:
    if sum(report.sample_ratio.users.values()):
        return "The traffic split is sound: no sample-ratio mismatch."
    reasons = "; ".join(f"{e.impressions:,} {_EXCLUDED[e.reason]}" for e in report.exclusions)
    return f"The comparison has no impressions yet{f'; excluded: {reasons}' if reasons else ''}."


def leading(comparison: Comparison) -> Verdict:
    """Verdict of the first figure in the sentence."""
    figures = comparison.figures
    first = figures.get(_EFFECTS[0][0]) or figures.get(_PREDICTION)
    return first.verdict if first is not None else "early"


def sentence(comparison: Comparison, report: Report) -> str:
    """The verdict on one arm as a sentence."""
    arm, figures = comparison.arm, comparison.figures
    shadow = any(each.name == arm and each.shadow for each in report.arms)
    pair = f"{arm}{' (shadow)' if shadow else ''} vs {comparison.control}"
    if not figures:
        return f"{pair}: {VERDICT_WORDS['early']}: no window has closed."
    hidden = next((figure.why for figure in figures.values() if figure.verdict == "withheld"), None)
    if hidden is not None:
        return f"{pair}: {VERDICT_WORDS['withheld']}: {hidden}."
    probability = f"{100 * (1 - comparison.level):.4g} % CI"
    parts = [_effect(title, name, figures, probability) for name, title in _EFFECTS if name in figures]
    parts.append(_prediction(figures[_PREDICTION], probability))
    return f"{pair}: {'; '.join(parts)}."


def _effect(title: str, name: str, figures: dict[str, Figure], probability: str) -> str:
    figure, relative = figures[name], figures.get(f"{name}_uplift", Figure())
    if relative.low is not None and relative.high is not None:
        span = f"{signed(relative.estimate)}, {probability} {signed(relative.low)} to {signed(relative.high)}"
    else:  # the control's own interval reaches zero: the difference is bounded, the quotient is not
        scale, unit = (100.0, " pp") if name == "ctr" else (1.0, "")
        value, low, high = (scale * (each or 0.0) for each in (figure.estimate, figure.low, figure.high))
        span = f"{value:+.3f}{unit}, {probability} {low:+.3f}{unit} to {high:+.3f}{unit}"
    return _judged(title, f"{title} is", figure, span)


def _prediction(figure: Figure, probability: str) -> str:
    value, low, high = (each or 0.0 for each in (figure.estimate, figure.low, figure.high))
    span = f"{value:+.4f} nats, {probability} {low:+.4f} to {high:+.4f}"
    return _judged("log loss", "log loss is", figure, span)


def _judged(title: str, subject: str, figure: Figure, span: str) -> str:
    words = VERDICT_WORDS[figure.verdict]
    if figure.verdict in ("better", "worse"):
        return f"{subject} {words} ({span})"
    if figure.verdict == "unknown":
        return f"{title} difference {words} ({span})"
    return f"{title}: {words}: {figure.why or 'too few clicks or users for an interval'}"


def reasons(titled: Iterable[tuple[str, str]]) -> list[str]:
    """Pairs of title and reason as lines; each reason once, after the titles of all figures it applies to."""
    found: dict[str, list[str]] = {}
    for title, why in titled:
        if why:
            found.setdefault(why, []).append(title)
    return [f"{', '.join(dict.fromkeys(titles))}: {why}" for why, titles in found.items()]


def warnings(report: Report) -> list[str]:
    """Reasons to doubt the figures."""
    return [_heavy(arm, report.settings.user_impressions) for arm in report.arms if _is_heavy(arm)]


def _is_heavy(arm: Arm) -> bool:
    return arm.impressions >= HEAVY_FROM and (arm.heaviest_share or 0.0) >= HEAVY_SHARE


def _heavy(arm: Arm, cap: int) -> str:
    counted = "all of them count" if arm.over_cap == 0 else f"only the first {cap:,} of them count"
    return (
        f"One user has {percent(arm.heaviest_share or 0.0)} of {arm.name}'s impressions "
        f"({arm.heaviest_impressions:,}); {counted}. Check for a crawler or a shared device."
    )


def notes(report: Report, *, capless: bool = False) -> list[str]:
    """Scope of the measurement and excluded data; ``capless``: an earlier version started the experiment."""
    found = [_measured(report)]
    progress, settings = report.progress, report.settings
    if progress.final_until_ms is not None:
        found.append(
            f"Metrics are final: they cover impressions before {moment(progress.final_until_ms)}, "
            f"whose labels (clicked within {settings.label_window_seconds:g} s) are settled. "
            f"{progress.open_impressions:,} later impressions await their label."
        )
    if report.comparisons:
        level = report.comparisons[0].level
        split = f" (level {settings.level:g}, split over {len(report.comparisons)} comparisons)"
        found.append(
            "Intervals are always valid: you may look, and stop the experiment, at any time. A metric's "
            f"interval contains the true value at every look with probability {1 - level:.4g}"
            f"{split if len(report.comparisons) > 1 else ''}."
        )
    if settings.horizon_impressions:
        found.append(_horizon(report))
    found += [*_capped(report, capless), *_bids(report), *_answered_by_others(report), *_missing(report)]
    if not progress.log_up:
        found.append("The log is unavailable: metrics cover only the entries read so far.")
    return found


def _capped(report: Report, capless: bool) -> list[str]:
    if capless:
        return [
            "This experiment started under an earlier version, without a cap on impressions per user: none "
            "applies. Counts by user and by bid, and exclusions by arm, cover impressions read since the "
            "update. An experiment under a new salt has the cap."
        ]
    over = [f"{arm.over_cap:,} of {arm.name}" for arm in report.arms if arm.over_cap]
    if not over:
        return []
    cap = report.settings.user_impressions
    return [
        f"Only the first {cap:,} impressions of each user count (watch.user_impressions). Not counted: "
        f"{', '.join(over)}."
    ]


def _bids(report: Report) -> list[str]:
    """Notes on impressions without a bid, and on unusable bids."""
    found, serving = [], [arm for arm in report.arms if not arm.shadow and arm.impressions]
    if any(arm.with_bid for arm in serving) and any(arm.with_bid < arm.impressions for arm in serving):
        priced = ", ".join(f"{percent(arm.with_bid / arm.impressions)} of {arm.name}'s" for arm in serving)
        found.append(
            f"Only some impressions have a bid ({priced}): a click without one has value 0 in ADVV. If the "
            "shares differ for a reason other than the arms' choices, the ADVV comparison is invalid."
        )
    unusable = sum(arm.unusable_bids for arm in report.arms)
    if unusable:
        found.append(
            f"{unusable:,} bids are negative, not finite or above 1e12. They are treated as missing."
        )
    return found


def _answered_by_others(report: Report) -> list[str]:
    found = []
    for arm in report.arms:
        others = sum(arm.reasons.get(why, 0) for why in ("fallback", "killed"))
        share = others / max(1, sum(arm.reasons.values()))
        if share > 0.01 and not arm.control:
            found.append(
                f"{percent(share)} of {arm.name}'s impressions were answered by another arm (fallback or "
                f"switched off). They still count for {arm.name}, which makes measured differences smaller."
            )
    return found


def _measured(report: Report) -> str:
    sources = {arm.learn_from for arm in report.arms}
    if sources == {"own"}:
        return (
            "Each arm learns only from the impressions that it served: the experiment compares complete "
            "systems, each with the training data that it generates."
        )
    if sources == {"all"}:
        return (
            "Arms learn from all traffic: the experiment compares the models that are served, not systems "
            "that each learn from their own data."
        )
    own = ", ".join(arm.name for arm in report.arms if arm.learn_from == "own")
    return (
        f"Learning from their own impressions only: {own}. The other arms learn from all traffic, so the "
        "experiment mixes the effect of the models with the effect of their training data."
    )


def _horizon(report: Report) -> str:
    reached = next((c.horizon.reached_ms for c in report.comparisons if c.horizon is not None), None)
    planned = f"One look at ordinary intervals is pre-registered at {report.settings.horizon_impressions:,} "
    if reached is None:
        shown = sum(arm.impressions for arm in report.arms)
        return f"{planned}impressions; {shown:,} so far."
    return f"{planned}impressions; it was taken at {moment(reached)} and is final."


def _missing(report: Report) -> list[str]:
    """Notes on impressions, clicks and log entries that are in no metric."""
    found = []
    for each in report.exclusions:
        if each.reason in ("not_enrolled", "override"):
            continue  # by design
        number = f"{each.impressions:,} impression{_s(each.impressions)} ({percent(each.share)})"
        found.append(f"Excluded: {number} {_EXCLUDED[each.reason]}.")
    outcomes = report.progress.outcomes
    late = outcomes.get("impressions_late", 0) + outcomes.get("impressions_ahead", 0)
    if late:
        found.append(f"{late:,} impressions arrived too late, or too far ahead in event time, to be joined.")
    if outcomes.get("clicks_too_late"):
        found.append(
            f"{outcomes['clicks_too_late']:,} clicks were in time but reached the log after their label was "
            "settled. They do not count."
        )
    if outcomes.get("rejected"):
        found.append(f"{outcomes['rejected']:,} log entries are invalid records.")
    if report.gaps:
        dropped = sum(gap.dropped for gap in report.gaps)
        lasting = " (one is ongoing)" if any(gap.end_ms is None for gap in report.gaps) else ""
        found.append(
            f"Servers could not log impressions in {len(report.gaps)} span{_s(len(report.gaps))}{lasting}; "
            f"{dropped:,} impressions were lost and are missing from all metrics."
        )
    return found


def _s(number: int) -> str:
    return "" if number == 1 else "s"


def signed(value: float | None) -> str:
    """A relative difference in percent."""
    return "unknown" if value is None else f"{100 * value:+.1f} %"


def moment(time_ms: int) -> str:
    """A time in UTC, human-readable."""
    return datetime.fromtimestamp(time_ms / 1000.0, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def percent(share: float) -> str:
    """A share in percent, with more decimals if it is small."""
    return f"{100 * share:.1f} %" if share >= 0.001 or share == 0.0 else f"{100 * share:.2g} %"
