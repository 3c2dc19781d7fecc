"""``stream-ctr evaluate``: progressive evaluation of models and peers over a dataset."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_ctr.cli.evaluate_batch import add_arguments as add_batch_arguments
from stream_ctr.cli.evaluate_batch import refuse_options_of_other_protocol, run_batch
from stream_ctr.datasets.bad_row_option import add_bad_row_argument, apply_bad_row_argument, say_bad_rows
from stream_ctr.datasets.reader import read_report
from stream_ctr.errors import UsageError

if TYPE_CHECKING:
    from stream_ctr.batch import Batch
    from stream_ctr.config.model import ModelConfig
    from stream_ctr.config.settings import Settings
    from stream_ctr.datasets.base import Dataset
    from stream_ctr.features.keys.tally import Tally
    from stream_ctr.learners.base import Learner
    from stream_ctr.metrics.sums import MetricValues
    from stream_ctr.pipeline.label_actions import LabelPolicy
    from stream_ctr.training.evaluate import Evaluation

MODELS = ("sml", "dnn")


class Evaluate:
    """``stream-ctr evaluate``."""

    help = (
        "progressive evaluation: predict each event, then learn from it; report log loss, AUC and calibration"
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("dataset", help="criteo, avazu, taobao, open-bandit, delimited, jsonl, world")
        parser.add_argument("path", nargs="?", help="file or folder of the data; none for world")
        parser.add_argument(
            "--option", action="append", default=[], metavar="KEY=VALUE", help="reader option"
        )
        add_bad_row_argument(parser)
        parser.add_argument(
            "--config", metavar="FILE", help="configuration file for model, optimizer, learner and features"
        )
        parser.add_argument("--model", choices=MODELS, help="sml: with Skip Meta Logit; dnn: without")
        parser.add_argument(
            "--optimizer",
            action="append",
            metavar="NAME",
            help="default, helen (its published form), base, ...; repeat to compare several in one run",
        )
        parser.add_argument(
            "--against",
            action="append",
            default=[],
            metavar="NAME",
            help="peer on the same events, repeatable: river-ftrl, river-lr, river-fm, river-tree, "
            "river-bagging, river-forest, or river:MODULE.CLASS for any other classifier of river",
        )
        parser.add_argument(
            "--limit", "--events", type=int, metavar="N", help="stop after N events (world: 100,000)"
        )
        parser.add_argument("--tail-from", type=int, metavar="N", help="also report metrics from event N on")
        parser.add_argument("--seed", type=int, metavar="N", help="seed of the initial weights")
        parser.add_argument(
            "--policy", metavar="NAME", help="label policy; every click counts as immediate (wait)"
        )
        parser.add_argument(
            "--keep-negatives", type=float, metavar="SHARE", help="share of negatives to learn from"
        )
        parser.add_argument("--chunk", type=int, default=256, metavar="N", help="events per batch (256)")
        parser.add_argument(
            "--plot", type=Path, metavar="PNG", help="draw the learning curve of the first learner"
        )
        parser.add_argument("--json", action="store_true", help="machine-readable output")
        add_batch_arguments(parser)

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.config.settings import load_settings
        from stream_ctr.datasets.base import WITHOUT_PATH, open_dataset, parse_options
        from stream_ctr.reporting.progress import Reporter
        from stream_ctr.training.evaluate import evaluate

        _check(arguments)
        apply_bad_row_argument(arguments)
        refuse_options_of_other_protocol(arguments)
        if arguments.against:
            from stream_ctr.learners.river.registry import check_river_name

            for name in arguments.against:
                check_river_name(name)
        settings = load_settings(arguments.config)
        if arguments.path is None and arguments.dataset not in WITHOUT_PATH:
            open_dataset(arguments.dataset, None)
            raise UsageError(f"{arguments.dataset} needs the path of its data")
        dataset = open_dataset(arguments.dataset, arguments.path, parse_options(arguments.option))
        limit = arguments.limit or (100_000 if arguments.dataset in WITHOUT_PATH else None)
        if arguments.protocol == "batch":
            return run_batch(arguments, settings, _model(arguments, settings), limit)
        batches, learners, left_out = _prepare(arguments, settings, dataset, limit)
        with Reporter("evaluate") as reporter:
            reporter.say("start", dataset=dataset.name, note=dataset.note, learners=", ".join(learners))
            results = evaluate(
                batches,
                learners,
                tail_from=arguments.tail_from,
                window=settings.train.metrics_window,
                progress=lambda events: reporter.progress(events=events, of=limit or "?"),
            )
            say_bad_rows(reporter, dataset)
        if not results[0].events:
            raise UsageError(f"{arguments.path}: contains no events")
        if arguments.json:
            print(json.dumps(as_json(results, dataset, left_out), indent=2))
        else:
            _print_table(results, dataset, left_out)
        if arguments.plot:  # last, so that a failing plot does not suppress the results
            from stream_ctr.metrics.curve_plot import plot_curve

            plot_curve(
                results[0].curve.points,
                arguments.plot,
                f"{dataset.name}, {results[0].name}",
                settings.train.metrics_window,
            )
        return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.limit is not None and not 1 <= arguments.limit <= sys.maxsize:
        raise UsageError(f"--limit {arguments.limit}: must be from 1 to {sys.maxsize}")
    if arguments.tail_from is not None and arguments.tail_from < 0:
        raise UsageError(f"--tail-from {arguments.tail_from}: must not be negative")
    if not 1 <= arguments.chunk <= 1_000_000:
        raise UsageError(f"--chunk {arguments.chunk}: must be from 1 to 1,000,000")


def _prepare(
    arguments: argparse.Namespace, settings: Settings, dataset: Dataset, limit: int | None
) -> tuple[Iterator[Batch], dict[str, Learner], Tally]:
    """The batches of the dataset, the learners by name, and the counts of features left out."""
    from stream_ctr.config.label_policy import refuse_labels
    from stream_ctr.features.keys.encoder import KeyEncoder
    from stream_ctr.features.rows.tables import FeatureTables
    from stream_ctr.learners.build import build_learner
    from stream_ctr.optim.presets import preset
    from stream_ctr.pipeline.from_examples import direct_batches

    fields = settings.features.fields if arguments.config and settings.features.fields else dataset.fields
    encoder = KeyEncoder(fields, settings.features.unknown)
    tables = FeatureTables(encoder.slot_field, len(fields), settings.features)
    policy = _policy(arguments, settings)
    for name in arguments.against:
        refuse_labels(policy.loss, name)
    # With plain labels under the wait policy, no separate label events are needed.
    at_once = policy.loss.plain and policy.loss.policy == "wait"
    examples = dataset.read(arguments.path or "", limit)
    batches = direct_batches(examples, encoder, tables, arguments.chunk, None if at_once else policy)
    model = _model(arguments, settings)
    learner = settings.learner
    if arguments.seed is not None:
        learner = dataclasses.replace(learner, seed=arguments.seed)
    learners: dict[str, Learner] = {}
    family = (
        model.backbone if not model.sml else "sml" if model.backbone == "dnn" else f"{model.backbone}-sml"
    )
    for name in arguments.optimizer or ["default"]:
        optimizer = settings.optimizer if name == "default" else preset(name)
        slots = encoder.slot_field.tolist()
        label = learner.river if learner.kind == "river" else f"{family}-{name}"
        learners[label] = build_learner(model, optimizer, learner, slots, len(fields), policy.loss)
    for name in arguments.against:
        from stream_ctr.learners.river.registry import river_learner

        learners[name] = river_learner(name, learner.seed)
    return batches, learners, encoder.tally


def _model(arguments: argparse.Namespace, settings: Settings) -> ModelConfig:
    """The configured model with the change of ``--model``."""
    if not arguments.model:
        return settings.model
    return dataclasses.replace(settings.model, sml=arguments.model == "sml")


def _policy(arguments: argparse.Namespace, settings: Settings) -> LabelPolicy:
    """The configured label policy with the overrides of the command line."""
    from stream_ctr.pipeline.label_actions import LabelPolicy

    keep, policy = arguments.keep_negatives, arguments.policy
    return LabelPolicy(
        dataclasses.replace(
            settings.join,
            policy=settings.join.policy if policy is None else policy,
            keep_negatives=settings.join.keep_negatives if keep is None else keep,
        )
    )


def as_json(results: list[Evaluation], dataset: Dataset, left_out: Tally) -> dict[str, Any]:
    """The results of the first learner at the top level, those of the others under ``against``."""
    rows = [_row(result) for result in results]
    return {
        "dataset": dataset.name,
        "note": dataset.note,
        "bad_rows": read_report(dataset).as_dict(),
        **left_out.as_dict(),
        **rows[0],
        "against": rows[1:],
    }


def _row(result: Evaluation) -> dict[str, Any]:
    row: dict[str, Any] = {"learner": result.name, **result.values.as_dict()}
    row["events_per_second"] = round(result.events_per_second, 1)
    row["skipped_updates"] = result.skipped
    if result.tail is not None:
        row["tail"] = {"from": result.tail_from, **result.tail.as_dict()}
    return row


def _print_table(results: list[Evaluation], dataset: Dataset, left_out: Tally) -> None:
    """Print one column per learner: learners are few, so the table fits any terminal."""
    from rich.console import Console
    from rich.table import Table

    first = results[0]
    table = Table(title=f"{dataset.name}: progressive metrics over {first.events:,} events")
    table.add_column("")
    for result in results:
        table.add_column(result.name, justify="right")

    def rows(part: str, found: list[MetricValues]) -> None:
        for name, key, form in (
            ("log loss", "log_loss", ".4f"),
            ("normalized entropy", "ne", ".4f"),
            ("AUC", "auc", ".4f"),
            ("calibration", "calibration", ".3f"),
            ("share of the achievable uplift", "share_of_way", ".1%"),
        ):
            if key != "share_of_way" or first.values.planted_events:
                table.add_row(f"{name}{part}", *(format(getattr(values, key), form) for values in found))

    rows("", [result.values for result in results])
    tails = [result.tail for result in results if result.tail is not None]
    if tails:
        table.add_section()
        rows(f", from event {first.tail_from:,}", tails)
    table.add_section()
    table.add_row("events per second", *(f"{result.events_per_second:,.0f}" for result in results))
    console = Console()
    console.print(table)
    values = first.values
    base = (
        f"base rate {values.base_rate:.2%}, progressive log loss of the base rate {values.base_log_loss:.4f}"
    )
    if values.planted_events:
        base += f", Bayes-optimal log loss {values.bayes_log_loss:.4f}"
    console.print(base, highlight=False)
    for line in left_out.lines(first.events):
        console.print(line, highlight=False, markup=False)
    if dataset.note:
        console.print(f"note: {dataset.note}", highlight=False)
