"""``stream-ctr bench optimizers``: an equal tuning budget for every optimizer, and one paired test."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_ctr.errors import UsageError

if TYPE_CHECKING:
    from stream_ctr.bench.optimizers.spaces import Method, Setting
    from stream_ctr.bench.optimizers.study import Plan, Stream
    from stream_ctr.datasets.base import Dataset

CHUNK = 1_000
"""Events per batch; affects only the speed."""


class Optimizers:
    """``stream-ctr bench optimizers``."""

    help = "tune every optimizer with the same number of trials, then test the best setting of each"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("dataset", help="criteo, avazu, taobao, open-bandit, delimited, jsonl, world")
        parser.add_argument("path", nargs="?", help="file or folder of the data; none for world")
        parser.add_argument(
            "--option", action="append", default=[], metavar="KEY=VALUE", help="reader option"
        )
        parser.add_argument("--methods", nargs="+", metavar="NAME", help="methods to compare (all)")
        parser.add_argument(
            "--trials", type=int, default=12, metavar="N", help="settings to try per method (12)"
        )
        parser.add_argument(
            "--tune-to", type=int, default=40_000, metavar="N", help="end of the tuning rows (40,000)"
        )
        parser.add_argument(
            "--score-from", type=int, default=20_000, metavar="N", help="first scored tuning row (20,000)"
        )
        parser.add_argument(
            "--test-to", type=int, default=80_000, metavar="N", help="end of the test rows (80,000)"
        )
        parser.add_argument(
            "--seeds",
            type=int,
            nargs="+",
            default=[1, 2, 3],
            metavar="N",
            help="seeds of the initial weights in the test (1 2 3)",
        )
        parser.add_argument(
            "--search-seed", type=int, default=0, metavar="N", help="seed of the random settings (0)"
        )
        parser.add_argument(
            "--block", type=int, default=200, metavar="N", help="events per block of the intervals (200)"
        )
        parser.add_argument(
            "--settings",
            type=Path,
            metavar="FILE",
            help="use the settings in the --json output of an earlier run instead of tuning",
        )
        parser.add_argument(
            "--work",
            type=Path,
            metavar="FOLDER",
            help="keep finished trials there; repeat the command to resume",
        )
        parser.add_argument(
            "--plot", type=Path, metavar="PNG", help="draw the loss differences along the stream"
        )
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.bench.optimizers.journal import Journal
        from stream_ctr.bench.optimizers.report import as_json, draw, print_table
        from stream_ctr.bench.optimizers.spaces import chosen_methods
        from stream_ctr.bench.optimizers.study import study
        from stream_ctr.reporting.progress import Reporter

        plan = _plan(arguments)
        methods = chosen_methods(arguments.methods)
        frozen = _frozen(arguments.settings, methods) if arguments.settings else None
        journal = Journal(arguments.work, _identity(arguments, frozen))
        dataset, stream = _read(arguments, plan)
        with Reporter("optimizers") as reporter:
            reporter.say("start", dataset=dataset.name, methods=", ".join(method.name for method in methods))
            say = partial(reporter.say, "run")
            results = list(study(stream, methods, plan, journal, frozen, lambda what: say(what=what)))
        report = as_json(results, stream.label(), plan, dataset)
        if arguments.json:
            print(json.dumps(report, indent=2))
        else:
            print_table(report)
        if arguments.plot:  # last, so that a failing plot does not suppress the results
            draw(results, plan, arguments.plot, dataset.name)
        return 0


def _plan(arguments: argparse.Namespace) -> Plan:
    from stream_ctr.bench.optimizers.paired import FEWEST_BLOCKS
    from stream_ctr.bench.optimizers.study import Plan

    for name in ("trials", "block"):
        if getattr(arguments, name) < 1:
            raise UsageError(f"--{name} {getattr(arguments, name)}: must be at least 1")
    if not 0 <= arguments.score_from < arguments.tune_to < arguments.test_to <= sys.maxsize:
        raise UsageError(
            f"--score-from {arguments.score_from}, --tune-to {arguments.tune_to} and --test-to "
            f"{arguments.test_to} must ascend, from 0 to {sys.maxsize}"
        )
    tested = arguments.test_to - arguments.tune_to
    if tested < FEWEST_BLOCKS * arguments.block:
        raise UsageError(
            f"--block {arguments.block}: {tested} test rows have {tested // arguments.block} blocks of that "
            f"size; at least {FEWEST_BLOCKS} are needed"
        )
    if any(not 0 <= seed < 2**63 for seed in arguments.seeds):
        raise UsageError(f"--seeds {arguments.seeds}: each must be from 0 to 2^63 - 1")
    if len(set(arguments.seeds)) < len(arguments.seeds):
        raise UsageError(f"--seeds {arguments.seeds}: must be distinct")
    return Plan(
        trials=arguments.trials,
        tune_to=arguments.tune_to,
        score_from=arguments.score_from,
        test_to=arguments.test_to,
        seeds=tuple(arguments.seeds),
        block=arguments.block,
        search_seed=arguments.search_seed,
    )


def _frozen(path: Path, methods: tuple[Method, ...]) -> dict[str, Setting]:
    """The settings chosen by an earlier run."""
    from stream_ctr.bench.optimizers.spaces import configured

    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        found = {row["optimizer"]: {k: float(v) for k, v in row["setting"].items()} for row in rows}
    except OSError as error:
        raise UsageError(f"--settings {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"--settings {path}: is not the --json output of this command") from None
    for method in methods:
        if method.name not in found:
            raise UsageError(f"--settings {path}: has no setting for {method.name}; choose other --methods")
        configured(method, found[method.name])
    return found


def _read(arguments: argparse.Namespace, plan: Plan) -> tuple[Dataset, Stream]:
    """Read and encode the rows once for all methods."""
    from stream_ctr.bench.optimizers.study import Stream
    from stream_ctr.config.features import FeaturesConfig
    from stream_ctr.datasets.base import WITHOUT_PATH, open_dataset, parse_options
    from stream_ctr.features.keys.encoder import KeyEncoder
    from stream_ctr.features.rows.tables import FeatureTables
    from stream_ctr.pipeline.from_examples import direct_batches

    options = parse_options(arguments.option)
    dataset = open_dataset(arguments.dataset, arguments.path, options)
    if arguments.path is None and arguments.dataset not in WITHOUT_PATH:
        raise UsageError(f"{arguments.dataset} needs the path of its data")
    encoder = KeyEncoder(dataset.fields)
    tables = FeatureTables(encoder.slot_field, len(dataset.fields), FeaturesConfig(fields=dataset.fields))
    examples = dataset.read(arguments.path or "", plan.test_to)
    batches = list(direct_batches(examples, encoder, tables, CHUNK))
    return dataset, Stream(batches, encoder.slot_field.tolist(), len(dataset.fields))


def _identity(arguments: argparse.Namespace, frozen: dict[str, Setting] | None) -> dict[str, Any]:
    """All inputs of the results except the methods, stored with the results."""
    names = ("dataset", "path", "option", "trials", "tune_to", "score_from", "test_to", "search_seed")
    return {**{name: getattr(arguments, name) for name in names}, "settings": frozen}
