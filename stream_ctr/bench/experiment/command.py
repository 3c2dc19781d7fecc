"""``stream-ctr bench experiment``: false positives, coverage and power of the experiment's statistics."""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from stream_ctr.errors import UsageError

if TYPE_CHECKING:
    from stream_ctr.bench.experiment.measure import Verdict

SIZES = (100_000, 1_000_000, 10_000_000)
"""Impressions at which power is reported."""


class Experiment:
    """``stream-ctr bench experiment``."""

    help = "false positives, coverage and power of the A/B statistics on simulated users"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--runs", type=int, default=1_000, help="A/A runs per scenario (1000)")
        parser.add_argument("--power-runs", type=int, default=100, help="runs with an uplift per size (100)")
        parser.add_argument("--looks", type=int, default=200, help="looks per run (200)")
        parser.add_argument("--click-rate", type=float, default=0.03, help="the control's click rate (0.03)")
        parser.add_argument("--uplift", type=float, default=0.05, help="true relative uplift (0.05)")
        parser.add_argument("--alpha", type=float, default=0.05, help="level of the intervals (0.05)")
        parser.add_argument(
            "--impressions",
            type=int,
            nargs="+",
            default=list(SIZES),
            help="sample sizes at which power is reported",
        )
        parser.add_argument("--seed", type=int, default=0, help="first seed; run i has seed + i")
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, arguments: argparse.Namespace) -> int:
        for name in ("runs", "power_runs"):
            if getattr(arguments, name) < 1:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} must be at least 1, got {getattr(arguments, name)}")
        found = measure(arguments)
        if arguments.json:
            print(json.dumps(found, indent=2))
        else:
            print_report(found)
        return 0


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all simulations, with progress on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    from stream_ctr.bench.experiment.measure import judge_all, shares
    from stream_ctr.bench.machine import describe_machine
    from stream_ctr.experiments.statistics.confidence_sequence import check_level
    from stream_ctr.experiments.statistics.simulation import Scenario

    check_level(arguments.alpha)
    started = time.monotonic()
    smallest = min(arguments.impressions)
    kinds = {
        "steady": Scenario(smallest, arguments.click_rate, 0.0, False, arguments.looks),
        "drift": Scenario(smallest, arguments.click_rate, 0.0, True, arguments.looks),
    }
    sizes = [
        Scenario(size, arguments.click_rate, arguments.uplift, False, arguments.looks)
        for size in arguments.impressions
    ]
    nulls: dict[str, Any] = {}
    power: dict[str, Any] = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for name, scenario in kinds.items():
            task = progress.add_task(f"A/A, {name}", total=arguments.runs)
            seeds = range(arguments.seed, arguments.seed + arguments.runs)
            verdicts = judge_all(scenario, arguments.alpha, seeds, partial(progress.advance, task))
            nulls[name] = {
                "always_valid": shares(verdicts, lambda verdict: verdict.ever).as_json(),
                "fixed_horizon": shares(verdicts, lambda verdict: verdict.final).as_json(),
                "naive_looking": shares(verdicts, lambda verdict: verdict.naive).as_json(),
                "coverage": shares(verdicts, lambda verdict: verdict.covered).as_json(),
            }
        for scenario in sizes:
            task = progress.add_task(f"uplift, {scenario.impressions:,}", total=arguments.power_runs)
            seeds = range(arguments.seed, arguments.seed + arguments.power_runs)
            verdicts = judge_all(scenario, arguments.alpha, seeds, partial(progress.advance, task))
            power[str(scenario.impressions)] = _power_row(verdicts)
    return {
        "machine": describe_machine(),
        "settings": {
            "click_rate": arguments.click_rate,
            "uplift": arguments.uplift,
            "alpha": arguments.alpha,
            "looks": arguments.looks,
            "seed": arguments.seed,
            "null_impressions": smallest,
        },
        "runs": arguments.runs,
        "false_positive_rate": nulls["steady"]["always_valid"]["share"],
        "coverage": nulls["steady"]["coverage"]["share"],
        "power": {size: row["always_valid"]["share"] for size, row in power.items()},
        "nulls": nulls,
        "uplifts": power,
        "seconds": round(time.monotonic() - started, 1),
    }


def _power_row(verdicts: list[Verdict]) -> dict[str, Any]:
    from statistics import median

    from stream_ctr.bench.experiment.measure import shares

    return {
        "always_valid": shares(verdicts, lambda verdict: verdict.ever).as_json(),
        "fixed_horizon": shares(verdicts, lambda verdict: verdict.final).as_json(),
        "coverage": shares(verdicts, lambda verdict: verdict.covered).as_json(),
        "fixed_coverage": shares(verdicts, lambda verdict: verdict.final_covered).as_json(),
        "median_stop": round(median(verdict.stopped for verdict in verdicts), 3),
        "relative_width": round(median(verdict.width for verdict in verdicts), 2),
    }


def print_report(found: dict[str, Any]) -> None:
    """Print the result of :func:`measure` as two tables."""
    from rich.console import Console
    from rich.table import Table

    def cell(share: dict[str, float]) -> str:
        return f"{share['share']:.1%} ({share['low']:.1%} to {share['high']:.1%})"

    settings = found["settings"]
    console = Console()
    nulls = Table(
        title=f"A/A: {found['runs']:,} runs of {settings['null_impressions']:,} impressions, "
        f"{settings['looks']} looks, level {settings['alpha']:g}"
    )
    for column in ("", "always-valid", "fixed horizon", "naive peeking", "coverage at every look"):
        nulls.add_column(column)
    for name, row in found["nulls"].items():
        nulls.add_row(
            name, *(cell(row[key]) for key in ("always_valid", "fixed_horizon", "naive_looking", "coverage"))
        )
    console.print(nulls)
    uplifts = Table(
        title=f"uplift of {settings['uplift']:.1%} on a click rate of {settings['click_rate']:.1%}"
    )
    for column in (
        "impressions",
        "power, always-valid",
        "power, fixed horizon",
        "coverage",
        "median stop",
        "width",
    ):
        uplifts.add_column(column)
    for size, row in found["uplifts"].items():
        uplifts.add_row(
            f"{int(size):,}",
            *(cell(row[key]) for key in ("always_valid", "fixed_horizon", "coverage")),
            f"{row['median_stop']:.0%}",
            f"{row['relative_width']:.2f} x",
        )
    console.print(uplifts)
    console.print(
        "Always-valid: the interval excludes zero at some look. Fixed horizon: the ordinary interval at the "
        "end excludes zero. Naive peeking: an ordinary interval excludes zero at some look.\nWidth: "
        "always-valid over ordinary interval at the end. Median stop: share of the impressions at the first "
        "look that excludes zero.",
        highlight=False,
    )
