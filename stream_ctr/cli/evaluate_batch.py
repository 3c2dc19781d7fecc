"""``stream-ctr evaluate --protocol batch``: training in epochs, early stopping, test of the best epoch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stream_ctr.errors import UsageError
from stream_ctr.offline.options import add_protocol_arguments, protocol_of

if TYPE_CHECKING:
    from stream_ctr.config.experiment import Arm
    from stream_ctr.config.model import ModelConfig
    from stream_ctr.config.settings import Settings
    from stream_ctr.offline.fit import Fit, Progress
    from stream_ctr.offline.run import Prepared
    from stream_ctr.reporting.progress import Reporter

BATCH_ONLY = (
    *("split", "shares", "split_seed", "epochs", "patience", "rate_factor", "batch_size", "minimum_count"),
    *("dense_rows", "dropout", "set", "work", "checkpoint"),
)
"""Arguments of the batch protocol only; None if not given."""
PROGRESSIVE_ONLY: dict[str, object] = {"against": [], "tail_from": None, "chunk": 256}
"""Arguments of progressive evaluation only, with their defaults."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the batch protocol."""
    parser.add_argument(
        "--protocol",
        choices=["progressive", "batch"],
        default="progressive",
        help="progressive: predict each event, then learn from it; batch: train in epochs over training rows",
    )
    group = parser.add_argument_group("batch protocol")
    add_protocol_arguments(group)
    group.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FOLDER",
        help="save a checkpoint of the first learner for train --start-from",
    )


def refuse_options_of_other_protocol(arguments: argparse.Namespace) -> None:
    """Reject options that the chosen protocol would ignore.

    Raises:
        UsageError: an option of the other protocol is given.
    """
    if arguments.protocol == "batch":
        given = [name for name, usual in PROGRESSIVE_ONLY.items() if getattr(arguments, name) != usual]
        other = "progressive"
    else:
        given = [name for name in BATCH_ONLY if getattr(arguments, name) is not None]
        other = "batch"
    if given:
        raise UsageError(f"--{given[0].replace('_', '-')} requires --protocol {other}")


def run_batch(
    arguments: argparse.Namespace, settings: Settings, model: ModelConfig, limit: int | None
) -> int:
    """Run ``evaluate --protocol batch`` with checked arguments; returns the exit status."""
    from stream_ctr.datasets.base import open_dataset, parse_options
    from stream_ctr.offline.encoded import encoded_rows
    from stream_ctr.offline.report import as_json, print_table
    from stream_ctr.offline.run import prepare, run
    from stream_ctr.reporting.progress import Reporter

    protocol = protocol_of(arguments)
    if arguments.seed is not None:
        protocol = replace(protocol, seed=arguments.seed)
        settings = settings.model_copy(update={"learner": replace(settings.learner, seed=arguments.seed)})
    arms = batch_arms(arguments, settings, model)
    dataset = open_dataset(arguments.dataset, arguments.path, parse_options(arguments.option))
    fields = settings.features.fields if arguments.config and settings.features.fields else dataset.fields
    features = settings.features
    if arguments.minimum_count is not None:
        features = replace(features, minimum_count=arguments.minimum_count)
    fits: dict[str, Fit] = {}
    with ExitStack() as stack:
        reporter = stack.enter_context(Reporter("evaluate"))
        reporter.say("start", dataset=dataset.name, note=dataset.note, learners=", ".join(arms))
        encoded = stack.enter_context(
            encoded_rows(
                dataset,
                arguments.path or "",
                fields,
                limit=limit,
                work=arguments.work,
                unknown=settings.features.unknown,
                progress=lambda rows: reporter.progress(reading=rows, of=limit or "?"),
            )
        )
        if encoded.bad_rows["skipped"] or encoded.bad_rows["notes"]:
            reporter.say("bad_rows", skipped=encoded.bad_rows["skipped"], note=encoded.note)
        prepared = prepare(encoded, protocol, features)
        for name, arm in arms.items():
            fits[name] = run(prepared, protocol, arm.model, arm.optimizer, arm.learner, _told(reporter, name))
        if arguments.checkpoint:
            first = next(iter(arms))
            saved = save_checkpoint(arguments.checkpoint, settings, arms[first], prepared, fits[first])
            reporter.say("checkpoint", folder=str(saved), learner=first)
        if arguments.json:
            print(json.dumps(as_json(fits, prepared, protocol), indent=2))
        else:
            print_table(fits, prepared, protocol)
    if arguments.plot:  # last, so that a failing plot does not suppress the results
        from stream_ctr.offline.report import plot_fits

        plot_fits(fits, arguments.plot, f"{dataset.name}, batch protocol")
    return 0


def batch_arms(arguments: argparse.Namespace, settings: Settings, model: ModelConfig) -> dict[str, Arm]:
    """The runs by name: the model with each optimizer."""
    from stream_ctr.config.experiment import Arm
    from stream_ctr.datasets.base import parse_options
    from stream_ctr.offline.presets import batch_preset, with_settings

    if arguments.dropout is not None:
        model = replace(model, dropout=arguments.dropout)
    texts = parse_options(arguments.set or [])
    family = f"{model.backbone}+sml" if model.sml else model.backbone
    arms = {}
    for name in arguments.optimizer or ["default" if arguments.config else "adam"]:
        optimizer = settings.optimizer if name == "default" else batch_preset(name)
        optimizer = with_settings(optimizer, texts)
        if arguments.dense_rows:
            optimizer = replace(optimizer, rows="dense")
        arms[f"{family}-{name}"] = Arm("batch", 1.0, model, optimizer, settings.learner)
    return arms


def save_checkpoint(folder: Path, settings: Settings, arm: Arm, prepared: Prepared, fit: Fit) -> Path:
    """Save the best epoch's weights with vocabulary and counts, for ``train --start-from``."""
    from stream_ctr.offline.warm_start import per_event, save_warm_start

    encoded, features = prepared.feed.encoded, prepared.features
    learner = per_event(fit.state, arm.optimizer, fit.batch_size)
    tables = prepared.feed.vocabulary.tables_state(features, encoded.slot_field, len(encoded.fields))
    return save_warm_start(
        folder,
        settings.model_copy(update={"features": features}),
        arm,
        encoded.fields,
        {"keys": encoded.keys_state, "tables": tables, "learner": learner},
    )


def _told(reporter: Reporter, name: str) -> Callable[[Progress], None]:
    """A callback that reports the progress of one learner's fit."""

    def tell(at: Progress) -> None:
        reporter.progress(
            learner=name, epoch=at.epoch, rows=at.rows, of=at.of, best_validation_auc=at.best_auc
        )

    return tell
