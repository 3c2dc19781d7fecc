"""Runs of simulated experiments, and the outcomes of the statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from scipy.stats import binomtest

from stream_ctr.experiments.statistics.confidence_sequence import (
    ConfidenceSequence,
    Span,
    enough,
    fixed_factor,
    uplift_interval,
)
from stream_ctr.experiments.statistics.simulation import CONTROL, TREATMENT, Scenario, simulate

BOUND_LEVEL = 0.95
"""Confidence of the binomial bounds on every share that is reported."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcomes of always-valid, repeated ordinary and fixed-horizon intervals in one run."""

    ever: bool
    """Whether the always-valid interval excluded zero at some look."""
    covered: bool
    """Whether it contained the true uplift at every look."""
    naive: bool
    """Whether an ordinary interval, computed at every look without correction, excluded zero at some look."""
    final: bool
    """Whether the ordinary interval at the end excluded zero (fixed horizon)."""
    final_covered: bool
    """Whether that interval contained the true uplift."""
    stopped: float
    """Share of the impressions at the first look whose always-valid interval excluded zero; 1 if none."""
    width: float
    """Width of the always-valid interval over that of the ordinary one, at the end."""


@dataclass(frozen=True, slots=True)
class Share:
    """A share of runs, with exact binomial bounds."""

    count: int
    runs: int

    def as_json(self) -> dict[str, float]:
        """Share, its bounds, and the number of runs."""
        bounds = binomtest(self.count, self.runs).proportion_ci(BOUND_LEVEL, "exact")
        return {
            "share": round(self.count / self.runs, 4),
            "low": round(float(bounds.low), 4),
            "high": round(float(bounds.high), 4),
            "runs": self.runs,
        }


def judge(scenario: Scenario, alpha: float, seed: int) -> Verdict:
    """Evaluate one run at every look."""
    sequence = ConfidenceSequence(alpha, scenario.impressions)
    ever, covered, naive, stopped = False, True, False, 1.0
    ordinary = always = Span(float("-inf"), float("inf"))
    for number, look in enumerate(simulate(scenario, seed), start=1):
        if not enough(look.clicks, look.impressions):
            continue
        pair = look.click_rate(TREATMENT), look.click_rate(CONTROL)
        always = uplift_interval(*pair, sequence.factor(pair[0].observations + pair[1].observations))
        ordinary = uplift_interval(*pair, fixed_factor(alpha))
        if always.excludes_zero and not ever:
            ever, stopped = True, number / scenario.looks
        covered &= always.low <= scenario.uplift <= always.high
        naive |= ordinary.excludes_zero
    return Verdict(
        ever,
        covered,
        naive,
        ordinary.excludes_zero,
        ordinary.low <= scenario.uplift <= ordinary.high,
        stopped,
        (always.high - always.low) / (ordinary.high - ordinary.low),
    )


def judge_all(
    scenario: Scenario, alpha: float, seeds: Iterable[int], advance: Callable[[], object]
) -> list[Verdict]:
    """Evaluate one run per seed; ``advance`` is called after each."""
    verdicts = []
    for seed in seeds:
        verdicts.append(judge(scenario, alpha, seed))
        advance()
    return verdicts


def shares(verdicts: list[Verdict], condition: Callable[[Verdict], bool]) -> Share:
    """Share of the verdicts that satisfy a condition."""
    return Share(sum(1 for verdict in verdicts if condition(verdict)), len(verdicts))
