"""``stream-ctr analyze hessian``: sharpness and gradients by feature frequency, for several optimizers."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING

from stream_ctr.cli.analyze.options import (
    add_batch_arguments,
    add_data_arguments,
    add_output_arguments,
    at_least,
    check_plot,
    positive,
)
from stream_ctr.errors import UsageError

if TYPE_CHECKING:
    from stream_ctr.analysis.hessian_report import FieldResult
    from stream_ctr.analysis.rows import Rows
    from stream_ctr.config.model import ModelConfig
    from stream_ctr.config.settings import Settings

OPTIMIZERS = ("adam", "sam", "helen")
FEWEST = 3
"""Minimum number of features of a field for a correlation."""


class Hessian:
    """``stream-ctr analyze hessian``."""

    help = "top Hessian eigenvalue and gradient norm of every feature's row by frequency"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_data_arguments(parser, events=60_000, held_out=10_000)
        parser.add_argument(
            "--field",
            action="append",
            default=[],
            metavar="NAME",
            help="field to analyse, repeatable (default: the categorical field with the most features that "
            "occur often enough, among fields with at most 500 values on the slice)",
        )
        parser.add_argument(
            "--optimizer",
            action="append",
            metavar="NAME",
            help="optimizer of the batch protocol, repeatable; perturbations are over Adam "
            "(default: adam, sam, helen)",
        )
        parser.add_argument(
            "--rho",
            type=float,
            help="radius of the perturbations (default: that of the batch protocol, 0.05)",
        )
        parser.add_argument("--backbone", metavar="NAME", help="network to use instead of the configured one")
        parser.add_argument("--sml", action="store_true", help="add skip meta logits")
        add_batch_arguments(parser, batch=256, rate=1e-3)
        parser.add_argument("--epochs", type=int, default=1, help="passes over the rows (1)")
        parser.add_argument(
            "--minimum-count", type=int, default=10, help="minimum events of the slice per feature (10)"
        )
        parser.add_argument("--seeds", type=int, default=1, help="networks per optimizer (1)")
        add_output_arguments(parser)

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.analysis.hessian_report import as_json, plot, print_report

        _check(arguments)
        results, rows, model = measure(arguments)
        found = as_json(arguments, rows, model, results)
        if arguments.json:
            print(json.dumps(found, indent=2))
        else:
            print_report(found)
        if arguments.plot:
            plot(results, arguments.plot, f"{rows.dataset}, {model.backbone}")
        return 0


def _check(arguments: argparse.Namespace) -> None:
    for name in ("events", "slice", "batch", "epochs", "minimum_count", "seeds"):
        at_least(arguments, name, 1)
    at_least(arguments, "seed", 0)
    positive(arguments, "rate")
    if arguments.rho is not None:
        positive(arguments, "rho")
    check_plot(arguments.plot)


def choose_model(arguments: argparse.Namespace, settings: Settings) -> ModelConfig:
    """The network of the configuration or, without one, that of the paper: DeepFM without skip logits."""
    from stream_ctr.config.model import ModelConfig

    model = settings.model if arguments.config else ModelConfig(backbone="deepfm", sml=False)
    if arguments.backbone:
        model = dataclasses.replace(model, backbone=arguments.backbone)
    if arguments.sml:
        model = dataclasses.replace(model, sml=True)
    return dataclasses.replace(model, dropout=0.0)


def measure(arguments: argparse.Namespace) -> tuple[list[FieldResult], Rows, ModelConfig]:
    """Train every optimizer from every seed on the same rows, and analyse the fields on the slice.

    Raises:
        UsageError: a field does not exist, or has too few features.
    """
    from stream_ctr.analysis.hessian import curvature
    from stream_ctr.analysis.hessian_report import FieldResult
    from stream_ctr.analysis.rows import STREAM_CHUNK, open_rows
    from stream_ctr.analysis.surface import Surface, quality
    from stream_ctr.analysis.training import progress_of, same_base, train
    from stream_ctr.config.settings import load_settings
    from stream_ctr.models.validation import check_model
    from stream_ctr.reporting.progress import Reporter

    names = arguments.optimizer or list(OPTIMIZERS)
    optimizers = {name: same_base(name, arguments.rate, arguments.rho) for name in names}
    settings = load_settings(arguments.config)
    model = choose_model(arguments, settings)
    by_event = arguments.batch == 1
    chunk = STREAM_CHUNK if by_event else arguments.batch
    results = []
    with Reporter("analyze hessian") as reporter:
        rows = open_rows(arguments, settings, events=arguments.events, held_out=arguments.slice, chunk=chunk)
        check_model(model, len(rows.fields))
        fields = choose_fields(arguments, rows)
        steps = arguments.epochs * len(rows.batches)
        for seed in range(arguments.seed, arguments.seed + arguments.seeds):
            for name, optimizer in optimizers.items():
                trained = train(
                    rows,
                    model,
                    optimizer,
                    steps,
                    by_event=by_event,
                    seed=seed,
                    device=arguments.device,
                    progress=progress_of(reporter, "batches", steps, optimizer=name, seed=seed),
                )
                surface = Surface(model, rows.slot_field, len(rows.fields), trained.state)
                held_out = rows.held_out
                values = quality(surface.logits(held_out.rows), held_out.label)
                for field in fields:
                    found = curvature(surface, held_out.rows, held_out.label, field)
                    often = found.keep(found.count >= arguments.minimum_count)
                    item = rows.fields[field]
                    rho = optimizer.rho if optimizer.method != "base" else None
                    results.append(FieldResult(item.name, name, rho, seed, often, values, trained.skipped))
    return results, rows, model


def choose_fields(arguments: argparse.Namespace, rows: Rows) -> list[int]:
    """Indices of the requested fields, or of the default field.

    Raises:
        UsageError: a field does not exist, or has fewer than FEWEST features to correlate.
    """
    import numpy as np

    from stream_ctr.analysis.hessian import default_field

    names = [item.name for item in rows.fields]
    for name in arguments.field:
        if name not in names:
            raise UsageError(f"--field {name}: unknown field; the fields are {', '.join(names)}")
    own, fields, minimum = rows.held_out.rows, len(names), arguments.minimum_count
    chosen = [names.index(name) for name in dict.fromkeys(arguments.field)]
    if not chosen:
        kinds = [index for index, item in enumerate(rows.fields) if item.kind in ("categorical", "multi")]
        chosen = [default_field(own, rows.slot_field, fields, kinds or list(range(fields)), minimum)]
    for field in chosen:
        seen = own[:, rows.slot_field == field]
        count = np.unique(seen[seen >= fields], return_counts=True)[1]
        if (often := int((count >= minimum).sum())) < FEWEST:
            raise UsageError(
                f"--field {names[field]}: {often} of its features were learned and are in {minimum} or more "
                f"of the {len(own):,} rows of the slice; a correlation needs {FEWEST}. Choose another field, "
                "a larger --slice or a smaller --minimum-count"
            )
    return chosen
