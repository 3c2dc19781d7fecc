"""``stream-ctr experiment off-policy``: estimate a policy's value from another policy's log."""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import TYPE_CHECKING, Any

from stream_ctr.errors import UsageError

if TYPE_CHECKING:
    from stream_ctr.experiments.statistics.estimates import Estimate

TARGETS = ("uniform",)
_WEIGHTED = (("ips", "IPS"), ("snips", "SNIPS"), ("dr", "doubly robust"))


class OffPolicyCommand:
    """``stream-ctr experiment off-policy``."""

    help = "estimate the value of the uniform policy from an Open Bandit log of another policy"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("path", help="Open Bandit campaign of the logged policy, such as bts/all")
        parser.add_argument(
            "--target", default="uniform", metavar="POLICY", help="policy to evaluate: uniform"
        )
        parser.add_argument(
            "--check",
            metavar="PATH",
            help="log of the target policy itself over the same items, such as random/all, to compare with",
        )
        parser.add_argument("--alpha", type=float, default=0.05, help="level of the intervals (0.05)")
        parser.add_argument("--limit", type=int, metavar="N", help="read only the first N rows")
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, arguments: argparse.Namespace) -> int:
        if arguments.target not in TARGETS:
            raise UsageError(
                f"--target {arguments.target}: cannot be evaluated. The log contains only the probabilities "
                "of the logged policy; the target's are known only for the uniform policy, from the number "
                "of items"
            )
        if arguments.limit is not None and not 1 <= arguments.limit <= sys.maxsize:
            raise UsageError(f"--limit must be from 1 to {sys.maxsize}, got {arguments.limit}")
        found = measure(arguments)
        if arguments.json:
            print(json.dumps(found, indent=2))
        else:
            print_report(found)
        return 0


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluate the policy, with progress on a terminal."""
    from stream_ctr.datasets.open_bandit import OpenBandit
    from stream_ctr.experiments.statistics.confidence_sequence import check_level
    from stream_ctr.experiments.statistics.estimates import NOTHING, difference
    from stream_ctr.experiments.statistics.off_policy import evaluate
    from stream_ctr.experiments.statistics.off_policy_check import uniform_mean
    from stream_ctr.experiments.statistics.reward_model import against_uniform
    from stream_ctr.reporting.progress import Reporter

    check_level(arguments.alpha)
    dataset = OpenBandit()
    with Reporter("off-policy") as reporter:
        # Before scoring every row, so that a wrong log fails immediately.
        check = uniform_mean(dataset, arguments.check, arguments.path) if arguments.check else None
        log = against_uniform(
            dataset.rounds(arguments.path, arguments.limit), lambda rows: reporter.progress(rows=rows)
        )
        value = evaluate(log)
    doubts = value.doubts()

    def with_interval(estimate: Estimate) -> dict[str, float | None]:
        return _with_interval(estimate, arguments.alpha)

    def weighted(estimate: Estimate) -> dict[str, float | None]:
        return with_interval(NOTHING if doubts else estimate)

    found: dict[str, Any] = {
        "log": str(arguments.path),
        "target": arguments.target,
        "rows": len(log.reward),
        "clicks": int(log.reward.sum()),
        "users": int(log.cluster.max()) + 1,
        "alpha": arguments.alpha,
        "logged": with_interval(value.logged),
        "usable": not doubts,
        "doubts": doubts,
        "ips": weighted(value.ips),
        "snips": weighted(value.snips),
        "dr": weighted(value.dr),
        "mean_weight": with_interval(value.mean_weight),
        "effective_rows": round(value.effective_rows, 1),
        "largest_weight": round(value.largest_weight, 2),
        "largest_share": round(value.largest_share, 4),
        "note": dataset.note,
    }
    if check is not None:
        found["check"] = {"log": str(arguments.check), **with_interval(check)}
        for name in ("ips", "snips", "dr"):
            found["check"][f"{name}_minus_check"] = weighted(difference(getattr(value, name), check))
    return found


def _with_interval(estimate: Estimate, alpha: float) -> dict[str, float | None]:
    from stream_ctr.experiments.statistics.confidence_sequence import fixed_interval

    span = fixed_interval(estimate, alpha)
    figures = {"value": estimate.value, "low": span.low, "high": span.high}
    return {name: round(value, 6) if math.isfinite(value) else None for name, value in figures.items()}


def print_report(found: dict[str, Any]) -> None:
    """Print the result of :func:`measure` as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"value of the {found['target']} policy from {found['log']}, {found['rows']:,} rows")
    for column in ("", "value", f"{1 - found['alpha']:.0%} CI"):
        table.add_column(column, justify="left" if not column else "right")

    def row(name: str, figures: dict[str, Any], form: str = ".3%") -> None:
        if any(figures[key] is None for key in ("value", "low", "high")):
            table.add_row(name, "unknown" if found["usable"] else "not usable", "")
            return
        table.add_row(
            name, format(figures["value"], form), f"{figures['low']:{form}} to {figures['high']:{form}}"
        )

    row("logged policy", found["logged"])
    table.add_section()
    for name, title in _WEIGHTED:
        row(title, found[name])
    if "check" in found:
        table.add_section()
        row("target policy's own log", found["check"])
        for name, title in _WEIGHTED if found["usable"] else ():
            row(f"{title} minus that", found["check"][f"{name}_minus_check"])
    table.add_section()
    row("mean weight (expected: 1)", found["mean_weight"], ".3f")
    console = Console()
    console.print(table)
    for doubt in found["doubts"]:
        console.print(f"IPS, SNIPS and doubly robust are not usable: {doubt}.", highlight=False)
    console.print(
        f"{found['clicks']:,} clicks, {found['users']:,} users (intervals cluster by user); effective rows: "
        f"{found['effective_rows']:,.1f}; largest weight: {found['largest_weight']:g} "
        f"({100 * found['largest_share']:.1f} % of all weight)",
        highlight=False,
    )
    console.print(f"note: {found['note']}", highlight=False)
