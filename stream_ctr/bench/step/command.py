"""``stream-ctr bench step``: the learner alone, at batch size 1."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from stream_ctr.errors import UsageError

if TYPE_CHECKING:
    from stream_ctr.config.model import ModelConfig


class Step:
    """``stream-ctr bench step``."""

    help = "the learner alone, at batch size 1"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--data", metavar="FILE", help="Criteo file (default: generated Zipf rows)")
        parser.add_argument(
            "--events", type=int, default=20_000, metavar="N", help="events for the fast learners (20,000)"
        )
        parser.add_argument(
            "--eager-events",
            type=int,
            default=2_048,
            metavar="N",
            help="events for the slow learners, and for every log loss (2,048)",
        )
        parser.add_argument(
            "--models",
            nargs="+",
            default=["128-64"],
            metavar="WIDTHS",
            help="hidden layer widths, e.g. 128-64 400-400",
        )
        parser.add_argument(
            "--no-peers",
            action="store_true",
            help="omit torch.compile, Vowpal Wabbit, deep-river and river's slower models",
        )
        parser.add_argument(
            "--variants",
            action="store_true",
            help="compare base rules, 16-bit accumulators and skipped idle weights with the default instead",
        )
        parser.add_argument(
            "--tail-from",
            type=int,
            metavar="N",
            help="with --variants: first event in the log losses (half of --events)",
        )
        parser.add_argument(
            "--profile",
            action="store_true",
            help="profile the parts of the compiled step instead",
        )
        parser.add_argument("--json", action="store_true", help="machine-readable output: a list of rows")

    def run(self, arguments: argparse.Namespace) -> int:
        from rich.console import Console
        from rich.progress import Progress

        from stream_ctr.bench.step.measure import MINIMUM_EVENTS, measure
        from stream_ctr.bench.step.report import as_json, print_table, print_variants, variants_json
        from stream_ctr.bench.step.variants import variant_entries

        for name in ("events", "eager_events"):
            if getattr(arguments, name) < MINIMUM_EVENTS:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} {getattr(arguments, name)}: must be at least {MINIMUM_EVENTS}")
        tail_from = arguments.events // 2 if arguments.tail_from is None else arguments.tail_from
        if not 0 <= tail_from <= arguments.events // 2:
            raise UsageError(
                f"--tail-from {tail_from}: must be from 0 to half of --events {arguments.events}"
            )
        models = [tower(text) for text in dict.fromkeys(arguments.models)]
        if arguments.profile:
            return _profile(arguments, models)
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("events", total=None)
            bench = measure(
                arguments.data,
                arguments.events,
                arguments.eager_events,
                models,
                not arguments.no_peers,
                lambda done, total: progress.update(task, completed=done, total=total),
                variant_entries if arguments.variants else None,
            )
        if arguments.json:
            rows = variants_json(bench, tail_from) if arguments.variants else as_json(bench)
            print(json.dumps(rows, indent=2))
        elif arguments.variants:
            print_variants(bench, tail_from)
        else:
            print_table(bench)
        return 0


def _profile(arguments: argparse.Namespace, models: list[ModelConfig]) -> int:
    """``--profile``."""
    from stream_ctr.bench.step.profile import as_json, print_profile, profile

    found = profile(arguments.data, arguments.events, models)
    if arguments.json:
        print(json.dumps(as_json(found), indent=2))
    else:
        print_profile(found)
    return 0


def tower(text: str) -> ModelConfig:
    """The flagship with other hidden widths.

    >>> tower("400-400").hidden
    (400, 400)

    Raises:
        UsageError: the text is no list of widths.
    """
    from dataclasses import replace

    from stream_ctr.bench.step.entries import FLAGSHIP

    widths = text.split("-")
    if not all(width.isdecimal() and 1 <= int(width) <= 10_000 for width in widths):
        raise UsageError(f"--models {text}: must be hidden layer widths such as 128-64, each from 1 to 10000")
    return replace(FLAGSHIP, hidden=tuple(map(int, widths)))
