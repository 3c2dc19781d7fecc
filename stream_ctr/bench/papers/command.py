"""``stream-ctr bench papers``: the experiment grid of both papers on any dataset."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_ctr.errors import UsageError
from stream_ctr.offline.options import add_protocol_arguments, protocol_of

if TYPE_CHECKING:
    from stream_ctr.bench.papers.grid import Cell, GridProgress
    from stream_ctr.reporting.progress import Reporter

OPTIMIZERS = "adam,nadam,radam,sam,asam,helen"
"""The optimizers of Helen's main table."""


class Papers:
    """``stream-ctr bench papers``."""

    help = "reproduce the papers' tables: models x optimizers x seeds, with and without SML; resumable"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("dataset", help="criteo, avazu, taobao, open-bandit, delimited, jsonl, world")
        parser.add_argument("path", nargs="?", help="file or folder of the data; none for world")
        parser.add_argument(
            "--option", action="append", default=[], metavar="KEY=VALUE", help="reader option"
        )
        parser.add_argument(
            "--config", metavar="FILE", help="configuration file for model, learner and features"
        )
        parser.add_argument("--models", metavar="NAMES", help="comma-separated backbones (all)")
        parser.add_argument(
            "--optimizers",
            metavar="NAMES",
            default=OPTIMIZERS,
            help=f"comma-separated optimizers ({OPTIMIZERS})",
        )
        parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds per combination (3)")
        parser.add_argument(
            "--sml",
            choices=["both", "without", "with"],
            default="both",
            help="skip logits in the grid (both)",
        )
        parser.add_argument(
            "--ablation", action="store_true", help="add all forms of the skip logits, for DNN with Adam"
        )
        parser.add_argument(
            "--components", action="store_true", help="add Adam, SAM and the ablations of Helen, for DeepFM"
        )
        parser.add_argument(
            "--limit", "--events", type=int, metavar="N", help="maximum number of rows to read"
        )
        parser.add_argument(
            "--out",
            type=Path,
            metavar="FOLDER",
            help="folder for finished cells, one file each (papers-DATASET)",
        )
        parser.add_argument("--plot", type=Path, metavar="PNG", help="draw AUC by optimizer and model")
        parser.add_argument("--json", action="store_true", help="machine-readable output")
        add_protocol_arguments(parser.add_argument_group("batch protocol"))

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.bench.papers.grid import Plan, run_grid
        from stream_ctr.bench.papers.report import as_json, plot_grid, print_tables
        from stream_ctr.config.settings import load_settings
        from stream_ctr.daemon.process import StateLock
        from stream_ctr.datasets.base import WITHOUT_PATH, open_dataset, parse_options
        from stream_ctr.offline.encoded import encoded_rows
        from stream_ctr.offline.run import prepare
        from stream_ctr.reporting.progress import Reporter

        protocol = protocol_of(arguments)
        cells = cells_of(arguments)
        settings = load_settings(arguments.config)
        if arguments.path is None and arguments.dataset not in WITHOUT_PATH:
            open_dataset(arguments.dataset, None)
            raise UsageError(f"{arguments.dataset} needs the path of its data")
        dataset = open_dataset(arguments.dataset, arguments.path, parse_options(arguments.option))
        limit = arguments.limit or (100_000 if arguments.dataset in WITHOUT_PATH else None)
        fields = settings.features.fields if arguments.config and settings.features.fields else dataset.fields
        features = settings.features
        if arguments.minimum_count is not None:
            features = replace(features, minimum_count=arguments.minimum_count)
        model = settings.model
        if arguments.dropout is not None:
            model = replace(model, dropout=arguments.dropout)
        out: Path = arguments.out or Path(f"papers-{dataset.name}")
        with ExitStack() as stack:
            reporter = stack.enter_context(Reporter("bench papers"))
            stack.enter_context(StateLock(out))
            encoded = stack.enter_context(
                encoded_rows(
                    dataset,
                    arguments.path or "",
                    fields,
                    limit=limit,
                    work=arguments.work or out / "work",
                    progress=lambda rows: reporter.progress(reading=rows, of=limit or "?"),
                )
            )
            plan = Plan(
                prepare(encoded, protocol, features),
                protocol,
                model,
                settings.learner,
                parse_options(arguments.set or []),
                bool(arguments.dense_rows),
            )
            plan.check(cells)
            results = run_grid(plan, cells, out, progress=lambda at: _show(reporter, at), say=reporter.say)
        report = as_json(plan, results, dataset.name)
        if arguments.json:
            print(json.dumps(report, indent=2))
        else:
            print_tables(report)
        if arguments.plot:  # last, so that a failing plot does not suppress the results
            plot_grid(results, arguments.plot, f"{dataset.name}, batch protocol, {arguments.seeds} seeds")
        return 0


def cells_of(arguments: argparse.Namespace) -> list[Cell]:
    """The cells of the arguments, ordered by seed, so that a partial grid covers every combination.

    Raises:
        UsageError: a name is unknown, or a number is outside its range.
    """
    from stream_ctr.bench.papers.grid import META_TANH, Cell
    from stream_ctr.bench.papers.published import ABLATION, COMPONENTS
    from stream_ctr.config.model import BACKBONE_NAMES
    from stream_ctr.offline.presets import BATCH_PRESETS, batch_preset

    if not 1 <= arguments.seeds <= 1000:
        raise UsageError(f"--seeds {arguments.seeds}: must be from 1 to 1000")
    if arguments.limit is not None and not 1 <= arguments.limit <= sys.maxsize:
        raise UsageError(f"--limit {arguments.limit}: must be from 1 to {sys.maxsize}")
    models = list(BACKBONE_NAMES)
    if arguments.models:
        models = _names("--models", arguments.models, BACKBONE_NAMES)
    optimizers = _names("--optimizers", arguments.optimizers, tuple(BATCH_PRESETS))
    for name in optimizers:
        batch_preset(name)
    skips = {"both": ("", META_TANH), "without": ("",), "with": (META_TANH,)}[arguments.sml]
    combinations = [(m, s, o) for m in models for s in skips for o in optimizers]
    if arguments.ablation:
        combinations += [("dnn", "" if form == "without" else form, "adam") for form in ABLATION]
    if arguments.components:
        combinations += [("deepfm", "", optimizer) for optimizer in COMPONENTS]
    seeds = range(1, arguments.seeds + 1)
    return list(dict.fromkeys(Cell(*combination, seed) for seed in seeds for combination in combinations))


def _names(option: str, text: str, known: tuple[str, ...]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise UsageError(f"{option} {text}: unknown name {name!r}; choose from {', '.join(known)}")
    return list(dict.fromkeys(names))


def _show(reporter: Reporter, at: GridProgress) -> None:
    shown: dict[str, Any] = {
        "cell": at.cell.name,
        "finished": at.done,
        "of": at.of,
        "minutes_left": at.seconds_left / 60.0,
        "epoch": at.fit.epoch,
        "rows": at.fit.rows,
        "rows_an_epoch": at.fit.of,
        "best_validation_auc": at.fit.best_auc,
    }
    reporter.progress(**shown)
