"""The report of a batch run: a table, the same as JSON, and a picture of the learning curves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from stream_ctr.offline.fit import Fit
from stream_ctr.offline.protocol import BatchProtocol
from stream_ctr.offline.run import Prepared
from stream_ctr.reporting.figure import COLOURS, dress, new_figure, write_figure


def as_json(fits: Mapping[str, Fit], prepared: Prepared, protocol: BatchProtocol) -> dict[str, Any]:
    """Data, protocol and one row per learner: the first at the top level, the others under ``against``."""
    rows = [row(name, fit) for name, fit in fits.items()]
    encoded = prepared.feed.encoded
    return {
        "dataset": encoded.name,
        "note": encoded.note,
        "bad_rows": encoded.bad_rows,
        **encoded.left_out().as_dict(),
        "protocol": {**asdict(protocol), "shares": list(protocol.shares)},
        "minimum_count": prepared.features.minimum_count,
        "rows": prepared.sizes(),
        "embedding_rows": len(prepared.feed.vocabulary.key),
        **rows[0],
        "against": rows[1:],
    }


def row(name: str, fit: Fit) -> dict[str, Any]:
    """The results of one learner; non-finite values are null."""
    return {
        "learner": name,
        "test": fit.test.as_dict() if fit.test else None,
        "validation": fit.best.validation.as_dict(),
        "best_epoch": fit.best.epoch,
        "epochs": len(fit.epochs),
        "batch_size": fit.batch_size,
        "updates": fit.updates,
        "skipped_updates": fit.skipped,
        "seconds": round(fit.seconds, 2),
        "curve": [
            {
                "epoch": epoch.epoch,
                "training_log_loss": epoch.training_log_loss,
                "validation_log_loss": epoch.validation.log_loss,
                "validation_auc": epoch.validation.auc,
                "rate": epoch.rate,
                "seconds": round(epoch.seconds, 2),
            }
            for epoch in fit.epochs
        ],
    }


def print_table(fits: Mapping[str, Fit], prepared: Prepared, protocol: BatchProtocol) -> None:
    """Print one column per learner: scores of the best epoch, then training details."""
    from rich.table import Table

    from stream_ctr.reporting.console import new_console

    encoded, sizes = prepared.feed.encoded, prepared.sizes()
    split = "split at random" if protocol.split == "random" else "split by time"
    counted = ", ".join(f"{sizes[name]:,} {name}" for name in sizes)
    table = Table(title=f"{encoded.name}, {split}: {counted} rows")
    table.add_column("")
    for name in fits:
        table.add_column(name, justify="right")
    found = list(fits.values())
    for part in ("test", "validation"):
        scores = [fit.test if part == "test" else fit.best.validation for fit in found]
        for title, key, form in (
            ("AUC", "auc", ".5f"),
            ("log loss", "log_loss", ".5f"),
            ("calibration", "calibration", ".3f"),
        ):
            if scores[0] is not None:
                table.add_row(f"{part} {title}", *(format(getattr(each, key), form) for each in scores))
        table.add_section()
    table.add_row("best epoch", *(f"{fit.best.epoch} of {len(fit.epochs)}" for fit in found))
    table.add_row("updates", *(f"{fit.updates:,}" for fit in found))
    if any(fit.skipped for fit in found):
        table.add_row("skipped updates (not finite)", *(f"{fit.skipped:,}" for fit in found))
    table.add_row("seconds", *(f"{fit.seconds:,.1f}" for fit in found))
    console = new_console(max(100, 40 + 20 * len(found)))
    console.print(table)
    embedding_rows = len(prepared.feed.vocabulary.key)
    console.print(
        f"{found[0].batch_size:,} rows per update; {embedding_rows:,} embedding rows, for values in at least "
        f"{prepared.features.minimum_count} training rows; weights of the best epoch by validation AUC.",
        highlight=False,
    )
    for line in encoded.left_out().lines(len(encoded)):
        console.print(line, highlight=False, markup=False)
    if encoded.note:
        console.print(f"note: {encoded.note}", highlight=False)


def plot_fits(fits: Mapping[str, Fit], path: str | os.PathLike[str], title: str) -> None:
    """Write a PNG: log loss of training and validation rows, and validation AUC, by epoch.

    Raises:
        UsageError: matplotlib is not installed.
        StreamCTRError: the file cannot be written.
    """
    figure = new_figure(9.0, 7.5)

    from matplotlib.ticker import MaxNLocator

    loss, ranking = figure.subplots(2, 1, sharex=True)
    for number, (name, fit) in enumerate(fits.items()):
        colour = COLOURS[number % len(COLOURS)]
        at = [epoch.epoch for epoch in fit.epochs]
        loss.plot(at, [e.training_log_loss for e in fit.epochs], "--", marker=".", color=colour)
        loss.plot(at, [e.validation.log_loss for e in fit.epochs], "-", marker=".", color=colour, label=name)
        ranking.plot(at, [e.validation.auc for e in fit.epochs], "-", marker=".", color=colour, label=name)
        best = fit.best
        ranking.plot([best.epoch], [best.validation.auc], "o", color=colour, markersize=9, fillstyle="none")
        loss.plot([best.epoch], [best.validation.log_loss], "o", color=colour, markersize=9, fillstyle="none")
    loss.set_title(title, loc="left", fontsize=13)
    loss.set_ylabel("log loss (nats / row)\nsolid: validation; dashed: training")
    ranking.set_ylabel("validation AUC\n(circle: selected epoch)")
    ranking.set_xlabel("epoch")
    ranking.xaxis.set_major_locator(MaxNLocator(integer=True))
    loss.legend(frameon=False, fontsize=9)
    for axes in (loss, ranking):
        dress(axes)
    write_figure(figure, path)
